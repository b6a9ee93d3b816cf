package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"testing"
	"time"
)

const good, bad = exitLinearizable, exitViolation

// One operation a line: client call return op ... ; see parse.
var cases = []struct {
	name    string
	want    int
	says    string
	history string
}{
	{"what was put is read", good, "", `
		0-1 put a=x @5
		2-3 get a x@5 @5`},
	{"a key that was never put is not there", good, "", `
		0-1 get a none @1`},
	{"a stale read of one key", bad, "a stale read", `
		0-1 put a=x @5
		2-3 put a=y @6
		4-5 get a x@5 @5`},
	{"a stale read that lies about its member's revision", bad, "not linearizable", `
		0-1 put a=x @5
		2-3 put a=y @6
		4-5 get a x@5 @6`},
	{"a stale read is allowed where it was asked for", good, "", `
		0-1 put a=x @5
		2-3 put a=y @6
		4-5 serializable a x@5 @5`},
	{"a read that runs beside a write may see either", good, "", `
		0-1 put a=x @5
		2-9 put a=y @6
		3-4 get a x@5 @5
		5-6 get a y@6 @6`},
	{"time does not turn back between two reads", bad, "", `
		0-1 put a=x @5
		2-9 put a=y @6
		3-4 get a y@6 @6
		5-6 get a x@5 @6`},
	{"an acknowledged write is lost", bad, "not linearizable", `
		0-1 put a=x @5
		2-3 get a none @9`},
	{"an acknowledged delete is lost", bad, "not linearizable", `
		0-1 put a=x @5
		2-3 delete a deleted=1 @6
		4-5 get a x@5 @6`},
	{"a delete counts what it removed", bad, "not linearizable", `
		0-1 put a=x @5
		2-3 delete a deleted=0 @6`},
	{"a value out of nowhere", bad, "nobody wrote it", `
		0-1 get a x@5 @5`},
	{"a refused write is seen", bad, "was refused", `
		0-1 put a=x failed
		2-3 get a x@5 @5`},
	{"a dirty read is seen even where staleness is allowed", bad, "was refused", `
		0-1 put a=x failed
		2-3 serializable a x@5 @5`},
	{"two requests share a revision", bad, "two requests have revision 5", `
		0-1 put a=x @5
		0-1 put b=y @5`},
	{"revisions of two keys run against time", bad, "a later one got revision 5", `
		0-1 put a=x @6
		2-3 put b=y @5`},
	{"a read of one key misses an answered write of another", bad, "a stale read", `
		0-1 put a=x @5
		2-3 get b none @4`},
	{"a write without answer may show later", good, "", `
		0-1 put a=x unknown
		2-3 get a none @1
		8-9 get a x@5 @5`},
	{"a write without answer may never show", good, "", `
		0-1 put a=x unknown
		2-3 get a none @1
		8-9 get a none @1`},
	{"a write without answer does not come and go", bad, "not linearizable", `
		0-1 put a=x unknown
		2-3 get a x@5 @5
		8-9 get a none @6`},
	{"a write without answer shows before it was sent", bad, "before it was written", `
		0-1 get a x@5 @5
		2-3 put a=x unknown`},
	{"a retry acted twice", bad, "was seen at revision 7, and was written at 5", `
		0-1 put a=x @5
		2-3 put a=y @6
		4-5 get a x@7 @7`},
	{"a retry without answer acted twice", bad, "was seen at revision 7, and was written at 5", `
		0-1 put a=x unknown
		2-3 get a x@5 @5
		4-5 get a x@7 @7`},
	{"a delete without answer may take effect late", good, "", `
		0-1 put a=x @5
		2-3 delete a unknown
		4-5 get a x@5 @5
		8-9 get a none @6`},
	{"compare-and-set takes its turn", good, "", `
		0-1 put a=x @5
		2-3 cas a@5=y yes a=x@5 @6
		2-4 cas a@5=z no a=y@6 @7
		5-6 get a y@6 @7`},
	{"two compare-and-sets win the same turn", bad, "not linearizable", `
		0-1 put a=x @5
		2-3 cas a@5=y yes a=x@5 @6
		2-4 cas a@5=z yes a=x@5 @7`},
	{"a compare-and-set fails although it holds", bad, "not linearizable", `
		0-1 put a=x @5
		2-3 cas a@5=y no a=x@5 @6`},
	{"a compare-and-set that failed is seen", bad, "compares did not hold", `
		0-1 put a=x @5
		2-3 cas a@4=y no a=x@5 @6
		4-5 get a y@6 @6`},
	{"a compare-and-set without answer shows", good, "", `
		0-1 put a=x @5
		2-3 cas a@5=y unknown
		4-5 get a y@6 @6`},
	{"a compare-and-set without answer that could not hold shows", bad, "not linearizable", `
		0-1 put a=x @5
		2-3 put a=z @6
		4-5 cas a@5=y unknown
		6-7 get a y@7 @7`},
	{"a create takes place once", bad, "not linearizable", `
		0-1 cas a@0=y yes none @5
		0-1 cas a@0=z yes none @6`},
	{"a batch shows as a whole", good, "", `
		0-1 batch g.a=x g.b=y deleted=0 @5
		2-3 batch g.a=z g.b- deleted=1 @6
		4-5 scan g g.a=z@6 @6`},
	{"a batch shows by half", bad, "not linearizable", `
		0-1 batch g.a=x g.b=y deleted=0 @5
		2-9 batch g.a=z g.b=w deleted=0 @6
		4-5 scan g g.a=z@6 g.b=y@5 @6`},
	{"a batch without answer shows by half", bad, "not linearizable", `
		0-1 batch g.a=x g.b=y unknown
		4-5 scan g g.a=x@5 @6`},
	{"a scan misses a key", bad, "not linearizable", `
		0-1 batch g.a=x g.b=y deleted=0 @5
		4-5 scan g g.b=y@5 @5`},
	{"two scans see two batches in different orders", bad, "not linearizable", `
		0-9 put g.a=x @5
		0-9 put g.b=y @6
		1-2 scan g g.a=x@5 @6
		1-2 scan g g.b=y@6 @6`},
	{"a key newer than the reply that shows it", bad, "newer than the reply", `
		0-9 put a=x @7
		1-2 get a x@7 @6`},
}

func TestHistories(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			got := check(&out, parseHistory(t, c.history), time.Minute, "")
			if got != c.want || !strings.Contains(out.String(), c.says) {
				t.Errorf("exit code %d, expected %d and %q:\n%s", got, c.want, c.says, out.String())
			}
		})
	}
}

// parse reads: CALL-RETURN op words..., the last word @REVISION, unknown or failed.
func parse(t *testing.T, line string, client int) *Operation {
	words := strings.Fields(line)
	o := &Operation{Client: client, line: client + 1, Outcome: outcomeOK}
	scanned(t, line, words[0], "%d-%d", &o.Call, &o.Return)
	o.Call, o.Return = o.Call*1000, o.Return*1000+500
	switch end := words[len(words)-1]; end {
	case outcomeUnknown, outcomeFailed:
		o.Outcome = end
	default:
		scanned(t, line, end, "@%d", &o.Result.Revision)
	}
	o.Op, o.Serializable = words[1], words[1] == "serializable"
	words = words[2 : len(words)-1]
	switch o.Op {
	case "get", "serializable":
		o.Op, o.Key = opGet, words[0]
		if words = words[1:]; words[0] != "none" {
			o.Result.Found = []Found{found(t, o.Key+"="+words[0])}
		}
	case "cas":
		o.Op = opTxn
		target, value, _ := strings.Cut(words[0], "=")
		key, revision, _ := strings.Cut(target, "@")
		compare := Compare{Key: key}
		scanned(t, line, revision, "%d", &compare.Expected)
		o.Compares, o.Writes = []Compare{compare}, []Write{{key, &value}}
		o.Key = ""
		if o.Outcome == outcomeOK {
			o.Result.Succeeded = words[1] == "yes"
			if words[2] != "none" {
				o.Result.Found = []Found{found(t, words[2])}
			}
		}
	case "scan":
		for _, word := range words[1:] {
			o.Result.Found = append(o.Result.Found, found(t, word))
		}
	default:
		for _, word := range words {
			key, value, put := strings.Cut(word, "=")
			switch {
			case key == "deleted":
				scanned(t, line, value, "%d", &o.Result.Deleted)
			case put:
				o.Writes = append(o.Writes, Write{key, &value})
			default:
				o.Writes = append(o.Writes, Write{strings.TrimSuffix(key, "-"), nil})
			}
		}
	}
	o.Group = "g"
	for _, write := range o.Writes {
		if !strings.Contains(write.Key, ".") {
			o.Group = write.Key
		}
	}
	if o.Key != "" {
		o.Group = o.Key
	}
	if err := o.validate(); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return o
}

func found(t *testing.T, word string) Found {
	key, rest, _ := strings.Cut(word, "=")
	value, revision, _ := strings.Cut(rest, "@")
	seen := Found{Key: key, Value: value}
	scanned(t, word, revision, "%d", &seen.Revision)
	return seen
}

func scanned(t *testing.T, line, word, format string, into ...any) {
	if _, err := fmt.Sscanf(word, format, into...); err != nil {
		t.Fatalf("%q: %q: %v", line, word, err)
	}
}

func parseHistory(t *testing.T, text string) []*Operation {
	var operations []*Operation
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		operations = append(operations, parse(t, strings.TrimSpace(line), i))
	}
	return operations
}

// simulate runs clients against a correct store: each operation takes effect at one moment between
// its call and its return; some have no answer, and then take effect later or never.
func simulate(seed int64, clients, steps int) []*Operation {
	random := rand.New(rand.NewSource(seed))
	var operations []*Operation
	now := state{}
	open := make([]*Operation, clients)
	effect := make([]int64, clients)
	for clock := int64(1); clock < int64(steps); clock++ {
		client := random.Intn(clients)
		o := open[client]
		switch {
		case o == nil:
			o = &Operation{Client: client, line: len(operations) + 1, Group: "g", Call: clock}
			invent(random, o, now, clock)
			open[client], effect[client] = o, 0
			operations = append(operations, o)
		case effect[client] == 0:
			effect[client] = clock
			if o.Outcome == outcomeOK || random.Intn(2) == 0 {
				now = take(o, now)
			}
		default:
			o.Return = clock
			if o.Outcome == outcomeUnknown {
				o.Result = Result{}
			}
			open[client] = nil
		}
	}
	var ended []*Operation
	for _, o := range operations {
		if o.Return == 0 {
			o.Outcome, o.Result = outcomeUnknown, Result{}
		}
		ended = append(ended, o)
	}
	return ended
}

func invent(random *rand.Rand, o *Operation, now state, clock int64) {
	o.Outcome = outcomeOK
	if random.Intn(25) == 0 {
		o.Outcome = outcomeUnknown
	}
	key := string(rune('a' + random.Intn(3)))
	value := fmt.Sprint(clock)
	switch random.Intn(6) {
	case 0:
		o.Op, o.Writes = opPut, []Write{{key, &value}}
	case 1:
		o.Op, o.Writes = opDelete, []Write{{key, nil}}
	case 2:
		o.Op, o.Writes = opBatch, []Write{{key, nil}, {"d", &value}}
	case 3:
		held, _ := now.find(key)
		o.Op, o.Writes, o.Compares = opTxn, []Write{{key, &value}}, []Compare{{key, held.revision}}
	case 4:
		o.Op, o.Key = opGet, key
	default:
		o.Op = opScan
	}
}

func take(o *Operation, now state) state {
	if !o.writes() {
		o.Result.Revision = max(now.last, 1)
		for _, held := range now.items {
			if o.Op == opScan || held.key == o.Key {
				o.Result.Found = append(o.Result.Found, Found{held.key, held.value, held.revision})
			}
		}
		return now
	}
	o.Result.Revision = now.last + 1
	writes := o.Writes
	if o.Op == opTxn {
		for _, held := range now.items {
			o.Result.Found = append(o.Result.Found, Found{held.key, held.value, held.revision})
		}
		if o.Result.Succeeded = now.holds(o.Compares); !o.Result.Succeeded {
			writes = nil
		}
	}
	after, deleted := now.write(writes, o.Result.Revision)
	o.Result.Deleted = deleted
	return after
}

func TestWhatACorrectStoreDoesIsLinearizable(t *testing.T) {
	for seed := int64(0); seed < 100; seed++ {
		var out bytes.Buffer
		if code := check(&out, simulate(seed, 5, 400), time.Minute, ""); code != good {
			t.Fatalf("seed %d: exit code %d\n%s", seed, code, out.String())
		}
	}
}

// A broken answer in a correct history: of a read, the value before; found out in nearly all of them.
func TestASingleWrongReadIsFound(t *testing.T) {
	const rounds = 100
	caught, broken := 0, 0
	for seed := int64(0); seed < rounds; seed++ {
		operations := simulate(seed, 4, 400)
		if !breakOne(rand.New(rand.NewSource(seed)), operations) {
			continue
		}
		broken++
		var out bytes.Buffer
		if check(&out, operations, time.Minute, "") == bad {
			caught++
		}
	}
	if broken < rounds/2 || caught < broken*9/10 {
		t.Errorf("%d of %d broken histories were caught, of %d", caught, broken, rounds)
	}
}

// breakOne lets a read show what a read long before it showed of the same key.
func breakOne(random *rand.Rand, operations []*Operation) bool {
	for range 1000 {
		early := operations[random.Intn(len(operations))]
		late := operations[random.Intn(len(operations))]
		if early.Op == opScan && late.Op == opScan && early.Outcome == outcomeOK &&
			late.Outcome == outcomeOK && early.Return+100 < late.Call &&
			fmt.Sprint(early.Result.Found) != fmt.Sprint(late.Result.Found) {
			late.Result.Found = early.Result.Found
			return true
		}
	}
	return false
}

func TestManyWritesWithoutAnswerAreDecidedInTime(t *testing.T) {
	var lines []string
	for i := range 400 {
		lines = append(lines, fmt.Sprintf("%d-%d put a=v%d unknown", i, i+1, i))
		if i%3 == 0 {
			lines = append(lines, fmt.Sprintf("%d-%d get a v%d@%d @%d", i+1, i+2, i, i+10, i+10))
		}
	}
	var out bytes.Buffer
	began := time.Now()
	if code := check(&out, parseHistory(t, strings.Join(lines, "\n")), time.Minute, ""); code != good {
		t.Fatalf("exit code %d\n%s", code, out.String())
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestAHistoryThatMakesNoSenseIsRefused(t *testing.T) {
	for _, line := range []string{
		`{`,
		`{"op": "put"}`,
		`{"op": "get", "group": "g", "key": "a", "outcome": "ok", "call": 2, "return": 1, "result": {"revision": 1}}`,
		`{"op": "get", "group": "g", "key": "a", "outcome": "maybe"}`,
		`{"op": "scan", "outcome": "failed"}`,
		`{"op": "scan", "group": "g", "outcome": "failed", "extra": 1}`,
	} {
		if _, err := readHistory(strings.NewReader(line)); err == nil {
			t.Errorf("accepted: %s", line)
		}
	}
}

func TestSpansLieWithinRevisions(t *testing.T) {
	spans := tighten(parseHistory(t, `
		0-100 put a=x @5
		10-20 put a=y @6
		5-90 get a y@6 @6
		50-200 put a=z @9
		0-300 put b=u unknown`))
	want := []span{{0, 20500}, {10000, 20500}, {10000, 90500}, {50000, 200500}}
	for i, found := range spans[:4] {
		if found != want[i] {
			t.Errorf("operation %d: %v, not %v", i, found, want[i])
		}
	}
}

// Of a real cluster, beside a paused leader: a minute of search, unless implied reads are left out.
func TestReadsAtOnceKeepTheSearchShort(t *testing.T) {
	file, err := os.Open("testdata/reads_at_once.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	operations, err := readHistory(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := check(&out, operations, 10*time.Second, ""); code != good {
		t.Fatalf("code %d: %s", code, out.String())
	}
}
