// The sequential model of one group of keys, for Porcupine: a map from key to value and
// mod_revision, and the revision of the last write. No operation touches two groups, so a history is
// linearizable if each group's is.
package main

import (
	"fmt"
	"sort"
	"strings"

	"github.com/anishathalye/porcupine"
)

// item is one key; revision 0: of a write whose revision nobody has seen.
type item struct {
	key, value string
	revision   uint64
}

// state is never changed: a write makes another one.
type state struct {
	last  uint64
	items []item // ascending by key
}

func (s state) find(key string) (item, bool) {
	i := sort.Search(len(s.items), func(i int) bool { return s.items[i].key >= key })
	if i < len(s.items) && s.items[i].key == key {
		return s.items[i], true
	}
	return item{}, false
}

// write gives the state after the writes, and how many keys they removed.
func (s state) write(writes []Write, revision uint64) (state, uint64) {
	after := state{last: max(s.last, revision)}
	var deleted uint64
	written := map[string]bool{}
	for _, write := range writes {
		written[write.Key] = true
		if write.Value != nil {
			after.items = append(after.items, item{write.Key, *write.Value, revision})
		} else if _, there := s.find(write.Key); there {
			deleted++
		}
	}
	for _, kept := range s.items {
		if !written[kept.key] {
			after.items = append(after.items, kept)
		}
	}
	sort.Slice(after.items, func(i, j int) bool { return after.items[i].key < after.items[j].key })
	return after, deleted
}

func (s state) holds(compares []Compare) bool {
	for _, compare := range compares {
		held, there := s.find(compare.Key)
		if there == (compare.Expected == 0) || there && held.revision != compare.Expected {
			return false
		}
	}
	return true
}

func (s state) shows(items []item, found []Found) bool {
	if len(items) != len(found) {
		return false
	}
	for i, seen := range found {
		held := items[i]
		if held.key != seen.Key || held.value != seen.Value ||
			held.revision != 0 && held.revision != seen.Revision {
			return false
		}
	}
	return true
}

func equal(a, b state) bool {
	if a.last != b.last || len(a.items) != len(b.items) {
		return false
	}
	for i := range a.items {
		if a.items[i] != b.items[i] {
			return false
		}
	}
	return true
}

// step says whether the operation may come next, and what then is.
func step(before state, o *Operation) (bool, state) {
	switch {
	case !o.writes():
		return stepRead(before, o)
	case !o.known():
		if o.Op == opTxn && !before.holds(o.Compares) {
			return true, before
		}
		after, _ := before.write(o.Writes, 0)
		return true, after
	case o.Result.Revision <= before.last:
		return false, before
	}
	writes := o.Writes
	if o.Op == opTxn {
		if before.holds(o.Compares) != o.Result.Succeeded {
			return false, before
		}
		if !o.resolved && !before.shows(before.items, o.Result.Found) {
			return false, before
		}
		if !o.Result.Succeeded {
			writes = nil
		}
	}
	after, deleted := before.write(writes, o.Result.Revision)
	counted := !o.resolved && (o.Op == opDelete || o.Op == opBatch)
	return !counted || deleted == o.Result.Deleted, after
}

func stepRead(before state, o *Operation) (bool, state) {
	if o.Result.Revision < before.last {
		return false, before
	}
	items := before.items
	if o.Op == opGet {
		items = nil
		if held, there := before.find(o.Key); there {
			items = []item{held}
		}
	}
	return before.shows(items, o.Result.Found), before
}

func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return state{} },
		Step: func(before, input, _ any) (bool, any) {
			legal, after := step(before.(state), input.(*Operation))
			return legal, after
		},
		Equal:             func(a, b any) bool { return equal(a.(state), b.(state)) },
		DescribeOperation: func(input, _ any) string { return describe(input.(*Operation)) },
		DescribeState:     func(s any) string { return s.(state).String() },
	}
}

func (s state) String() string {
	var parts []string
	for _, held := range s.items {
		parts = append(parts, fmt.Sprintf("%s=%s@%d", held.key, held.value, held.revision))
	}
	return fmt.Sprintf("revision %d {%s}", s.last, strings.Join(parts, " "))
}
