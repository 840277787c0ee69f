"""The demo's own PACS, FHIR server and RIS: they keep what they get, once for each identity."""
