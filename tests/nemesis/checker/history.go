// A history is JSON lines, one operation each, in any order:
//
//	{"client": 3, "member": 1, "op": "put", "group": "r7", "outcome": "ok", "call": 10, "return": 25,
//	 "writes": [{"key": "a", "value": "3/17"}], "result": {"revision": 41}}
//
// Every value is written by one operation only, ever: a value seen names the write it is from.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
)

// What an operation is.
const (
	opPut    = "put"
	opDelete = "delete"
	opBatch  = "batch" // writes
	opTxn    = "txn"   // reads the group; if every compare holds, then writes
	opGet    = "get"
	opScan   = "scan" // reads the group
)

// What became of it.
const (
	outcomeOK      = "ok"
	outcomeFailed  = "failed"  // certainly not done
	outcomeUnknown = "unknown" // perhaps done, perhaps later
)

const never = math.MaxInt64

// Write stores a value under a key, or, with a null value, removes it.
type Write struct {
	Key   string  `json:"key"`
	Value *string `json:"value"`
}

// Compare holds when the key's mod_revision is the expected one; 0: the key is not there.
type Compare struct {
	Key      string `json:"key"`
	Expected uint64 `json:"expected"`
}

// Found is a key as a read saw it.
type Found struct {
	Key      string `json:"key"`
	Value    string `json:"value"`
	Revision uint64 `json:"mod_revision"`
}

// Result is what an operation with outcome ok returned.
type Result struct {
	Revision  uint64  `json:"revision"`  // of the write; the store's as of a read
	Deleted   uint64  `json:"deleted"`   // keys, by a delete or a batch
	Succeeded bool    `json:"succeeded"` // a txn's compares
	Found     []Found `json:"found"`
}

// Operation is one request, with all its retries.
type Operation struct {
	Client       int       `json:"client"`
	Member       int       `json:"member"` // that answered, or was asked last
	Op           string    `json:"op"`
	Group        string    `json:"group"`
	Key          string    `json:"key"` // of a get
	Compares     []Compare `json:"compares"`
	Writes       []Write   `json:"writes"`
	Serializable bool      `json:"serializable"`
	Outcome      string    `json:"outcome"`
	Call         int64     `json:"call"`
	Return       int64     `json:"return"`
	Result       Result    `json:"result"`

	line     int
	resolved bool // it had no answer, but a read saw what it wrote
}

func (o *Operation) writes() bool { return o.Op != opGet && o.Op != opScan }
func (o *Operation) known() bool  { return o.Outcome == outcomeOK || o.resolved }

// readHistory reads and validates; an error names the line.
func readHistory(reader io.Reader) ([]*Operation, error) {
	var operations []*Operation
	scanner := bufio.NewScanner(reader)
	scanner.Buffer(nil, 16<<20)
	for line := 1; scanner.Scan(); line++ {
		if strings.TrimSpace(scanner.Text()) == "" {
			continue
		}
		decoder := json.NewDecoder(strings.NewReader(scanner.Text()))
		decoder.DisallowUnknownFields()
		operation := &Operation{line: line}
		if err := decoder.Decode(operation); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if err := operation.validate(); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		operations = append(operations, operation)
	}
	return operations, scanner.Err()
}

func (o *Operation) validate() error {
	switch o.Op {
	case opPut, opDelete:
		if len(o.Writes) != 1 || (o.Writes[0].Value == nil) != (o.Op == opDelete) {
			return fmt.Errorf("a %s has one write", o.Op)
		}
	case opBatch:
		if len(o.Writes) == 0 {
			return fmt.Errorf("a batch has writes")
		}
	case opGet:
		if o.Key == "" || len(o.Result.Found) > 1 {
			return fmt.Errorf("a get has a key and finds at most one")
		}
	case opTxn, opScan:
	default:
		return fmt.Errorf("no such op: %q", o.Op)
	}
	switch o.Outcome {
	case outcomeOK, outcomeFailed, outcomeUnknown:
	default:
		return fmt.Errorf("no such outcome: %q", o.Outcome)
	}
	if o.Group == "" {
		return fmt.Errorf("no group")
	}
	if o.Outcome == outcomeOK && (o.Return < o.Call || o.Result.Revision == 0) {
		return fmt.Errorf("what was answered has a return after its call, and a revision")
	}
	return nil
}
