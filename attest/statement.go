package attest

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Types of documents and what marks them.
const (
	MediaType     = "application/vnd.in-toto+json"
	StatementType = "https://in-toto.io/Statement/v1"
	// AnnotationPredicate repeats the predicate type of a statement beside it.
	AnnotationPredicate = "in-toto.io/predicate-type"

	PredicateProvenance   = "https://slsa.dev/provenance/v1"
	PredicateProvenance02 = "https://slsa.dev/provenance/v0.2"
	PredicateSPDX         = "https://spdx.dev/Document"
)

// oldStatementType is still written by scanners.
const oldStatementType = "https://in-toto.io/Statement/v0.1"

// A Statement says something (the predicate) about subjects.
type Statement struct {
	Type          string          `json:"_type"`
	PredicateType string          `json:"predicateType"`
	Subject       []Subject       `json:"subject"`
	Predicate     json.RawMessage `json:"predicate"`
}

// A Subject is a thing with a digest: algorithm to hexadecimal value.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// NewStatement returns a statement in JSON. An empty predicate is null.
func NewStatement(predicateType string, predicate []byte, subjects []Subject) ([]byte, error) {
	s := Statement{Type: StatementType, PredicateType: predicateType, Subject: subjects, Predicate: predicate}
	if len(predicate) == 0 {
		s.Predicate = json.RawMessage("null")
	}
	if !json.Valid(s.Predicate) {
		return nil, fmt.Errorf("the %s attestation is not JSON", predicateType)
	}
	return json.MarshalIndent(s, "", "  ")
}

// ParseStatement reads a statement.
func ParseStatement(b []byte) (*Statement, error) {
	s := &Statement{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("not an in-toto statement: %w", err)
	}
	if s.Type != StatementType && s.Type != oldStatementType {
		return nil, fmt.Errorf("not an in-toto statement: its type is %q", s.Type)
	}
	if s.PredicateType == "" {
		return nil, errors.New("an in-toto statement without a predicate type")
	}
	return s, nil
}
