"""How results leave: C-STORE, FHIR over HTTP, HL7 over MLLP, and the courier that drives one destination."""
