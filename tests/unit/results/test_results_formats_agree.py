"""Whatever the result, the three formats carry the same findings, and the same result gives the same bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hilum.domain.findings import Answer, Dropped, Finding, Findings
from hilum.domain.geometry import PixelBox
from hilum.domain.identity import Patient, derive_uid
from hilum.domain.inference import ImageReference
from hilum.domain.results import Format, Result
from hilum.domain.study import StudyHeader
from hilum.testing import results as samples
from hilum_results.encode import encode_all, fhir, oru, sr
from hilum_results.encode.canonical import canonical

LABELS = st.one_of(
    st.sampled_from(["Nodule", "Fractures", "pleural effusion", "Pneumothorax"]),
    st.from_regex(r"[A-Za-z][A-Za-z0-9 \-'/()&+%:_]{0,78}", fullmatch=True).map(str.strip),
)
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cn")), max_size=60)
NAMES = st.text(st.sampled_from("Aé山^=\\&|~ .'\n\r\x1b\t"), max_size=40)


@st.composite
def images(draw: st.DrawFn) -> ImageReference:
    frames = draw(st.integers(1, 20))
    return ImageReference(
        series_instance_uid=derive_uid("series"),
        sop_instance_uid=derive_uid("image", str(draw(st.integers(1, 3)))),
        sop_class_uid=draw(st.sampled_from([samples.CR, samples.DX, samples.MULTI_FRAME])),
        uri="spool:x",
        frame=draw(st.integers(1, frames)),
        frames=frames,
        rows=draw(st.integers(2, 5000)),
        columns=draw(st.integers(2, 5000)),
    )


@st.composite
def found(draw: st.DrawFn, number: int) -> Finding:
    on = draw(images())
    x = sorted(draw(st.tuples(st.integers(0, 999), st.integers(0, 999)).filter(lambda p: p[0] != p[1])))
    y = sorted(draw(st.tuples(st.integers(0, 999), st.integers(0, 999)).filter(lambda p: p[0] != p[1])))
    width, height = on.columns / 1000, on.rows / 1000
    box = PixelBox(x[0] * width, y[0] * height, x[1] * width, y[1] * height)
    return Finding(draw(LABELS), box, on, draw(st.floats(0, 1)), draw(st.booleans()), derive_uid("f", str(number)))


@st.composite
def results(draw: st.DrawFn) -> Result:
    list_of = [draw(found(n)) for n in range(draw(st.integers(0, 3)))]
    of: Findings = samples.findings(
        list_of,
        images=[f.image for f in list_of[:1]] or [samples.image()],
        report=draw(TEXT),
        answers=[Answer("Is it?", draw(TEXT))],
        dropped=[Dropped(draw(LABELS), "too small")],
        ungrounded=draw(st.lists(LABELS, max_size=2)),
    )
    header = StudyHeader(
        study_instance_uid=of.study_instance_uid,
        patient=Patient(draw(TEXT), draw(TEXT), draw(NAMES), draw(TEXT), draw(TEXT)),
        accession_number=draw(TEXT),
        study_date=draw(st.sampled_from(["", "20261025", "20269999", "x"])),
        study_time=draw(st.sampled_from(["", "0230", "023000.5", "99", "7"])),
        study_description=draw(TEXT),
        referring_physician=draw(NAMES),
        procedure_code=draw(TEXT),
        procedure_meaning=draw(TEXT),
        procedure_scheme=draw(st.sampled_from(["", "LN", "SCT", "99X"])),
        utc_offset=draw(st.sampled_from(["", "+0200", "-0330", "+9900", "junk"])),
    )
    return samples.result(of, header=header)


@settings(max_examples=40, deadline=None)
@given(results())
def test_all_three_formats_say_the_canonical_findings_and_repeat_byte_for_byte(result: Result) -> None:
    expected = canonical(result)
    encoded = encode_all(result)
    assert sr.decode(encoded[Format.SR]) == expected
    assert fhir.decode(encoded[Format.FHIR]) == expected
    assert oru.decode(encoded[Format.ORU]) == expected
    assert encode_all(result) == encoded


def test_the_canonical_box_lies_inside_the_image_and_keeps_the_grids_decimals() -> None:
    on = samples.image(rows=1955)
    written = canonical(samples.result(samples.findings([samples.finding("Nodule", 1, on=on)], images=[on])))[0]
    assert written.box == PixelBox(390.0, 1008.78, 577.5, 1186.685)
    assert written.box.is_inside(rows=on.rows, columns=on.columns)
    assert written.certainty_percent == 91.0
