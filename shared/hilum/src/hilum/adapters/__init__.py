"""The ports' other sides: SQL, the event log, folders, DICOM files."""
