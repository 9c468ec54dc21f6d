"""What a request says of itself: its key, the recording in its body, the type that it wants back."""

import hmac
import tempfile
from typing import BinaryIO

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, HTTPConnection

from .limits import Refused

ANSWERS = {"audio/wav": ".wav", "audio/flac": ".flac", "audio/ogg": ".opus"}  # the first unless asked
ALSO = {"audio/x-wav": "audio/wav", "audio/wave": "audio/wav", "audio/x-flac": "audio/flac"}
ALSO |= {"audio/opus": "audio/ogg", "application/ogg": "audio/ogg"}
# Types that a body may have besides audio/* and video/*: curl's own among them, and none.
BODIES = ("", "application/octet-stream", "application/ogg", "application/x-www-form-urlencoded")
SPOOLED = 1 << 20  # bytes of a body that are held in memory, the rest in a temporary file


def check_key(connection: HTTPConnection, keys: tuple[bytes, ...]) -> None:
    """Refused 401 without one of the keys, if there are any."""
    if not keys:
        return
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    given = [token.strip() if scheme.lower() == "bearer" else "", connection.headers.get("x-api-key", "")]
    # No `any`: how long it takes must not tell which key is nearly right. A header's bytes come as latin-1.
    if not sum(hmac.compare_digest(text.encode("latin-1"), key) for text in given for key in keys):
        raise Refused(401, "an API key is needed: Authorization: Bearer KEY", {"www-authenticate": "Bearer"})


def answer_type(accept: str) -> str:
    """The type of the answer by an Accept header: one of ANSWERS, or Refused 406."""
    best, most = None, 0.0
    for part in (accept or "*/*").lower().split(","):
        kind, *parameters = (text.strip() for text in part.split(";"))
        quality = next((_number(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
        kind = ALSO.get(kind, kind)
        if kind in ("*/*", "audio/*"):
            kind = next(iter(ANSWERS))
        if kind in ANSWERS and quality > most:
            best, most = kind, quality
    if best is None:
        raise Refused(406, f"Accept: {accept[:80]!r} names none of {', '.join(ANSWERS)}")
    return best


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def is_form(request: Request) -> bool:
    """Whether the body is a form, else it is the file itself; Refused 415 for what can't be a recording."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "a Content-Encoding isn't read: send the file as it is")
    form = kind == "multipart/form-data"
    if not form and kind not in BODIES and kind.partition("/")[0] not in ("audio", "video"):
        raise Refused(
            415, f"Content-Type {kind[:80]!r}: audio was expected, application/octet-stream or a form"
        )
    return form


async def uploaded(request: Request, form: bool) -> BinaryIO:
    """The recording in the body, as a temporary file; Refused 422, or 499 if the client goes."""
    try:
        return await (_form_file(request) if form else _body_file(request))
    except ClientDisconnect as error:
        raise Refused(499, "the client has gone") from error


async def _body_file(request: Request) -> BinaryIO:
    """The body in a temporary file, from its begin."""
    file = tempfile.SpooledTemporaryFile(SPOOLED)
    try:
        async for part in request.stream():
            file.write(part)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file  # type: ignore[return-value]


async def _form_file(request: Request) -> BinaryIO:
    """The first file of a form, whatever its field is called."""
    try:
        form = await request.form(max_files=1, max_fields=20)
    except UnicodeError as error:  # of a charset that there isn't
        raise Refused(422, f"the form can't be read: {error}") from error
    file = next((value.file for value in form.values() if isinstance(value, UploadFile)), None)
    if file is None:
        await form.close()
        raise Refused(422, "the form has no file: curl -F file=@noisy.wav")
    return file
