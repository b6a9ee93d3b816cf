// What had no answer. A search that may put it anywhere takes exponential time, so most of it is
// decided first, by what was seen:
//
//	a value of it was seen   it was done, before that read returned, at the revision seen
//	none was                 it may have been done at any time after its call, or never
//
// The second kind is left out of the search at first (checkGroup): mostly nobody noticed it.
package main

import "fmt"

// violation is something no store may do, in a sentence, with the operations that show it.
type violation struct {
	text  string
	shown []*Operation
}

// decide resolves unknown outcomes and returns the operations that must be put in an order.
func decide(operations []*Operation) ([]*Operation, []violation) {
	writers := map[string]*Operation{}
	var found []violation
	for _, operation := range operations {
		for _, write := range operation.Writes {
			if write.Value == nil {
				continue
			}
			if writers[*write.Value] != nil && writers[*write.Value] != operation {
				found = append(found, violation{
					fmt.Sprintf("the history is no use: value %q is written twice", *write.Value),
					[]*Operation{writers[*write.Value], operation},
				})
			}
			writers[*write.Value] = operation
		}
	}
	found = append(found, observe(operations, writers)...)
	var ordered []*Operation
	for _, operation := range operations {
		switch {
		case operation.Outcome == outcomeOK && !operation.Serializable, operation.resolved:
			ordered = append(ordered, operation)
		case operation.Outcome == outcomeUnknown && operation.writes():
			operation.Return = never
			ordered = append(ordered, operation)
		}
	}
	return ordered, found
}

// observe goes through everything that reads saw.
func observe(operations []*Operation, writers map[string]*Operation) []violation {
	var found []violation
	report := func(text string, shown ...*Operation) {
		found = append(found, violation{text, shown})
	}
	for _, reader := range operations {
		if reader.Outcome != outcomeOK {
			continue
		}
		for _, seen := range reader.Result.Found {
			writer := writers[seen.Value]
			switch {
			case writer == nil:
				report(fmt.Sprintf("value %q was seen, and nobody wrote it", seen.Value), reader)
			case writer.Outcome == outcomeFailed:
				report(fmt.Sprintf("value %q was seen, and its write was refused", seen.Value), writer, reader)
			case writer.Outcome == outcomeOK && writer.Op == opTxn && !writer.Result.Succeeded:
				report(fmt.Sprintf("value %q was seen, and its compares did not hold", seen.Value), writer, reader)
			case writer.Call > reader.Return:
				report(fmt.Sprintf("value %q was seen before it was written", seen.Value), writer, reader)
			case writer.known() && writer.Result.Revision != seen.Revision:
				report(fmt.Sprintf("value %q was seen at revision %d, and was written at %d",
					seen.Value, seen.Revision, writer.Result.Revision), writer, reader)
			case writer.resolved:
				writer.Return = min(writer.Return, reader.Return)
			case !writer.known():
				writer.resolved = true
				writer.Result = Result{Revision: seen.Revision, Succeeded: true}
				writer.Return = reader.Return
			}
		}
	}
	return found
}
