// The times between which an operation took effect, as far as revisions tell. A write comes behind
// whatever has a lower revision (step), and a reply's revision says how new the state is that it
// shows, so
//
//	a write     took effect after whatever has a lower revision was called
//	a read      took effect after all writes up to its revision were called
//	both        took effect before any write with a higher revision returned
//
// What overlaps only because it was answered late is then not tried in every order.
package main

import (
	"slices"
	"sort"
)

// span is where an operation's effect lies.
type span struct{ from, to int64 }

// tighten gives the spans of a group's operations, in their order.
func tighten(group []*Operation) []span {
	spans := make([]span, len(group))
	var known []int
	for i, operation := range group {
		spans[i] = span{operation.Call, operation.Return}
		if operation.known() {
			known = append(known, i)
		}
	}
	revision := func(k int) uint64 { return group[known[k]].Result.Revision }
	sort.SliceStable(known, func(a, b int) bool { return revision(a) < revision(b) })
	for k, called, written := 0, int64(0), int64(0); k < len(known); {
		end := k
		for ; end < len(known) && revision(end) == revision(k); end++ {
			if i := known[end]; group[i].writes() {
				spans[i].from = max(spans[i].from, called)
				written = max(written, group[i].Call)
			}
		}
		for ; k < end; k++ {
			i := known[k]
			if !group[i].writes() {
				spans[i].from = max(spans[i].from, written)
			}
			called = max(called, group[i].Call)
		}
	}
	for k, returned := len(known), int64(never); k > 0; {
		begin := k
		for ; begin > 0 && revision(begin-1) == revision(k-1); begin-- {
			spans[known[begin-1]].to = min(spans[known[begin-1]].to, returned)
		}
		for ; k > begin; k-- {
			if i := known[k-1]; group[i].writes() {
				returned = min(returned, group[i].Return)
			}
		}
	}
	for i, operation := range group {
		if spans[i].from > spans[i].to { // there is no order, which the search shall find
			spans[i] = span{operation.Call, operation.Return}
		}
	}
	return spans
}

// implied tells whether operation i is a read that fits wherever another one fits, which is kept: it
// saw the same, no earlier, and has the time to do it beside the other. Many reads at once are as many
// sets to try as they have subsets.
func implied(group []*Operation, spans []span, i int) bool {
	read := group[i]
	if read.writes() {
		return false
	}
	for k, other := range group {
		if k == i || other.Op != read.Op || other.Key != read.Key || !other.known() ||
			other.Result.Revision > read.Result.Revision ||
			!slices.Equal(other.Result.Found, read.Result.Found) ||
			spans[k].from < spans[i].from || spans[k].to > spans[i].to {
			continue
		}
		same := spans[k] == spans[i] && other.Result.Revision == read.Result.Revision
		if !same || k < i {
			return true
		}
	}
	return false
}
