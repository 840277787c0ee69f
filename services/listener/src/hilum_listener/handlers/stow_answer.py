"""The answer to a STOW-RS request: status, and Store Instances Response Module (PS3.18 10.5.3) in JSON or XML."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from xml.etree import ElementTree

from hilum_listener.handlers.stow import Failure, Outcome

JSON, XML = "application/dicom+json", "application/dicom+xml"
_OFFERED = (JSON, XML, "application/json", "text/xml")  # the first is the default; the last two are for plain clients
_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_XML = "http://www.w3.org/XML/1998/namespace"
_KEYWORDS = {
    "00081150": "ReferencedSOPClassUID",
    "00081155": "ReferencedSOPInstanceUID",
    "00081190": "RetrieveURL",
    "00081196": "WarningReason",
    "00081197": "FailureReason",
    "00081198": "FailedSOPSequence",
    "00081199": "ReferencedSOPSequence",
    "0008119A": "OtherFailuresSequence",
}

Attributes = dict[str, dict[str, object]]


def answer_type(accept: str) -> str | None:
    """The media type of the answer that the Accept header likes best; None when it takes none of ours."""
    if not accept.strip():
        return JSON
    wanted: dict[str, float] = {}
    for item in accept.split(",")[:50]:
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        wanted[name] = min((_quality(p) for p in parameters if p.startswith("q=")), default=1.0)

    def liking(name: str) -> float:
        return wanted.get(name, wanted.get(f"{name.split('/')[0]}/*", wanted.get("*/*", 0.0)))

    best = max(_OFFERED, key=liking)  # of equals the first
    return best if liking(best) > 0 else None


def _quality(parameter: str) -> float:
    try:
        return min(max(float(parameter.removeprefix("q=")), 0.0), 1.0)
    except ValueError:
        return 0.0


def status_of(outcomes: Sequence[Outcome]) -> HTTPStatus:
    """PS3.18 table 10.5.3-1."""
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    if not outcomes:
        return HTTPStatus.BAD_REQUEST
    if not failures and all(outcome.warning is None for outcome in outcomes):
        return HTTPStatus.OK
    if len(failures) < len(outcomes):
        return HTTPStatus.ACCEPTED
    if all(failure is Failure.OUT_OF_RESOURCES for failure in failures):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if all(failure is Failure.CANNOT_UNDERSTAND for failure in failures):
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.CONFLICT


def encode(outcomes: Sequence[Outcome], media_type: str) -> bytes:
    """The module. Of parts whose object could not be named, Other Failures Sequence tells the reasons."""
    module = _module(outcomes)
    if media_type.endswith("xml"):
        ElementTree.register_namespace("", _NAMESPACE)
        root = ElementTree.Element(f"{{{_NAMESPACE}}}NativeDicomModel", {f"{{{_XML}}}space": "preserve"})
        _append(root, module)
        return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    return json.dumps(module, separators=(",", ":")).encode()


def _module(outcomes: Sequence[Outcome]) -> Attributes:
    stored, failed, others = [], [], []
    for outcome in outcomes:
        named = _referenced(outcome)
        if outcome.failure is None:
            reason = {} if outcome.warning is None else {"00081196": _value("US", int(outcome.warning))}
            stored.append(named | {"00081190": _value("UR")} | reason)
        elif outcome.sop_class_uid and outcome.sop_instance_uid:
            failed.append(named | {"00081197": _value("US", int(outcome.failure))})
        else:
            others.append({"00081197": _value("US", int(outcome.failure))})
    module = {"00081190": _value("UR")}  # type 2: there is no place to retrieve from
    for tag, items in (("00081198", failed), ("00081199", stored), ("0008119A", others)):
        if items:
            module[tag] = _value("SQ", *items)
    return module


def _referenced(outcome: Outcome) -> Attributes:
    return {"00081150": _value("UI", outcome.sop_class_uid), "00081155": _value("UI", outcome.sop_instance_uid)}


def _value(vr: str, *values: object) -> dict[str, object]:
    """One attribute of the DICOM JSON Model (PS3.18 F.2)."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def _append(parent: ElementTree.Element, attributes: Attributes) -> None:
    """The same attributes in the Native DICOM Model (PS3.19 A.1)."""
    for tag, attribute in attributes.items():
        described = {"tag": tag, "vr": str(attribute["vr"]), "keyword": _KEYWORDS[tag]}
        element = ElementTree.SubElement(parent, f"{{{_NAMESPACE}}}DicomAttribute", described)
        values = attribute.get("Value", [])
        assert isinstance(values, list)
        for number, value in enumerate(values, start=1):
            kind = "Item" if isinstance(value, dict) else "Value"
            child = ElementTree.SubElement(element, f"{{{_NAMESPACE}}}{kind}", {"number": str(number)})
            if isinstance(value, dict):
                _append(child, value)
            else:
                child.text = str(value)
