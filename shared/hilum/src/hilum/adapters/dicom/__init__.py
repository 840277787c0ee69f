"""Everything that reads DICOM files: headers, text and pixels. pydicom stops here (docs/architecture.md)."""
