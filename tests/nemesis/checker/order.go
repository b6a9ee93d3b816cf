// What holds over all keys at once, because every write has a revision of its own, in the order of
// effect. Linear time, so nothing is left undecided.
package main

import (
	"fmt"
	"sort"
)

// checkRevisions checks that revisions are unique, follow real time, and that a read knows of every
// write that was answered before it was sent.
func checkRevisions(operations []*Operation) []violation {
	var writes, reads []*Operation
	for _, operation := range operations {
		switch {
		case operation.writes() && operation.known():
			writes = append(writes, operation)
		case operation.Outcome == outcomeOK && !operation.writes() && !operation.Serializable:
			reads = append(reads, operation)
		}
	}
	found := checkWrites(writes)
	found = append(found, checkReads(writes, reads)...)
	for _, operation := range operations {
		for _, seen := range operation.Result.Found {
			if seen.Revision > operation.Result.Revision {
				found = append(found, violation{"a key is newer than the reply that shows it", []*Operation{operation}})
			}
		}
	}
	return found
}

func checkWrites(writes []*Operation) []violation {
	var found []violation
	sort.Slice(writes, func(i, j int) bool { return writes[i].Result.Revision < writes[j].Result.Revision })
	var latest *Operation // the one called last, among those with lower revisions
	for i, write := range writes {
		if i > 0 && writes[i-1].Result.Revision == write.Result.Revision {
			found = append(found, violation{
				fmt.Sprintf("two requests have revision %d", write.Result.Revision),
				[]*Operation{writes[i-1], write},
			})
		}
		if latest != nil && write.Return < latest.Call {
			found = append(found, violation{
				fmt.Sprintf("a write was answered at revision %d, and a later one got revision %d",
					write.Result.Revision, latest.Result.Revision),
				[]*Operation{write, latest},
			})
		}
		if latest == nil || write.Call > latest.Call {
			latest = write
		}
	}
	return found
}

func checkReads(writes, reads []*Operation) []violation {
	var found []violation
	writes = append([]*Operation(nil), writes...)
	sort.Slice(writes, func(i, j int) bool { return writes[i].Return < writes[j].Return })
	sort.Slice(reads, func(i, j int) bool { return reads[i].Call < reads[j].Call })
	var newest *Operation // of the writes answered before the read was sent
	next := 0
	for _, read := range reads {
		for ; next < len(writes) && writes[next].Return < read.Call; next++ {
			if newest == nil || writes[next].Result.Revision > newest.Result.Revision {
				newest = writes[next]
			}
		}
		if newest != nil && read.Result.Revision < newest.Result.Revision {
			found = append(found, violation{
				fmt.Sprintf("a stale read: its member stood at revision %d, %d had been answered",
					read.Result.Revision, newest.Result.Revision),
				[]*Operation{newest, read},
			})
		}
	}
	return found
}
