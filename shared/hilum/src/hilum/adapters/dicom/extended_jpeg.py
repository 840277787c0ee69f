"""JPEG Extended with 12-bit samples (1.2.840.10008.1.2.4.51), which pydicom leaves to a GPL decoder: GDCM reads it."""

import gdcm  # type: ignore[import-untyped]  # SWIG binding without stubs
import numpy as np
from numpy.typing import NDArray

from hilum.domain.errors import Reject

SYNTAX = "1.2.840.10008.1.2.4.51"


def decode(codestream: bytes, *, rows: int, columns: int) -> NDArray[np.uint16]:
    """One grey frame of 9 to 12 bits: (rows, columns).

    Raises:
        Reject: GDCM does not decode it.
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(codestream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(SYNTAX)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    text = image.GetBuffer()  # GDCM's binding hands bytes out as str
    pixels = b"" if text is None else text.encode("utf-8", "surrogateescape")
    if len(pixels) != rows * columns * 2:
        raise Reject("the pixels (JPEG Extended, 12 bit) could not be decoded")
    return np.frombuffer(pixels, "<u2").reshape(rows, columns)
