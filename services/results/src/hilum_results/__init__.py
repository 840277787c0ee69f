"""The results service: one canonical result becomes SR, FHIR and HL7, and each is delivered until it is accepted."""
