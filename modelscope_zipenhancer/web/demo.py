"""The demo page: a recording in, before and after out, by gradio, as ModelScope's studios use it."""

import html
import json
import logging
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ..audio.policy import SERVED, Policy
from ..errors import AudioError, CheckpointError, ConfigError, LimitError, ModelNotFoundError
from .jobs import Jobs, Models, Result, Stopped, process
from .limits import LimitedBodies, Limits
from .picture import clock
from .theme import make_theme
from .words import is_chinese, text, translations

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
EXAMPLES = {"fan": "fan.mp3", "rain": "rain.mp3"}  # what words.py calls them: in FOLDER/examples
WITHOUT_LIMIT = 40  # dB, the end of the slider of strength
WAITING = 16  # visitors in the queue, besides those whose recordings are worked on
KEEP_SECONDS = 3600  # that recordings stay on the server


def make_page(models: Models, *, policy: Policy = SERVED, at_once: int = 1) -> Any:
    """The page, a gradio.Blocks to be launched by `launch`.

    Args:
        models: to choose from; the first is chosen at first.
        policy: what may be uploaded.
        at_once: recordings that are worked on at a time; the next wait in a queue.
    """
    import gradio as gr

    jobs, limits = Jobs(at_once + WAITING), limits_of(policy)
    words = gr.I18n(**translations(**limits))

    def player(side: str) -> gr.Audio:
        """The browser's own, since the picture is above it."""
        return gr.Audio(
            label=words(side),
            show_label=False,
            container=False,
            interactive=False,
            buttons=[],
            waveform_options={"show_recording_waveform": False},
            elem_id=side,
        )

    with gr.Blocks(
        title="ZipEnhancer", analytics_enabled=False, delete_cache=(600, KEEP_SECONDS), fill_width=False
    ) as page:
        gr.Markdown(words("title"), elem_id="title")
        gr.Markdown(words("lead"), elem_id="lead")
        with gr.Row(elem_id="top"):
            with gr.Column(scale=3, min_width=320):
                source = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label=words("recording"),
                    elem_id="source",
                    buttons=[],
                )
                source.async_move_resource_to_block_cache = uploads_only(
                    source.async_move_resource_to_block_cache
                )
                gr.Markdown(words("limits"), elem_classes="note")
                with gr.Row(elem_id="examples"):
                    gr.Markdown(words("examples"), elem_classes="note")
                    examples = {
                        name: gr.Button(words(name), size="sm", min_width=80, elem_id=f"example-{name}")
                        for name in EXAMPLES
                    }
            with gr.Column(scale=2, min_width=320, elem_id="options"):
                model = gr.Radio(
                    [(label_of(name), name) for name in models.names],
                    value=models.names[0],
                    label=words("model"),
                    info=words("model_info"),
                    elem_id="model",
                )
                strength = gr.Slider(
                    0,
                    WITHOUT_LIMIT,
                    value=WITHOUT_LIMIT,
                    step=1,
                    label=words("strength"),
                    info=words("strength_info"),
                    elem_id="strength",
                    buttons=[],
                )
                wide = gr.Checkbox(
                    label=words("bandwidth"), info=words("bandwidth_info"), elem_id="bandwidth"
                )
                go = gr.Button(words("enhance"), variant="primary", elem_id="enhance")
                cancel = gr.Button(words("cancel"), variant="stop", visible=False, elem_id="cancel")
        status = gr.HTML("", elem_id="status", padding=False)
        with gr.Column(visible=False, elem_id="result") as result:
            facts = gr.HTML("", elem_id="facts", padding=False)
            with gr.Row():
                with gr.Column(min_width=320):
                    gr.Markdown(words("before_heading"))
                    before_picture = gr.HTML("", elem_id="picture-before", padding=False)
                    before = player("before")
                with gr.Column(min_width=320):
                    gr.Markdown(words("after_heading"))
                    after_picture = gr.HTML("", elem_id="picture-after", padding=False)
                    after = player("after")
                    download = gr.DownloadButton(words("download"), variant="primary", elem_id="download")
        gr.Markdown(words("about"), elem_classes="note", elem_id="about")

        def work(
            path: str | None,
            name: str,
            decibels: float,
            keep_high: bool,
            request: gr.Request,
            progress: Any = gr.Progress(),
        ) -> dict:
            chinese = prefers_chinese(request)
            called = html.escape(Path(path).name) if path else ""

            def say(key: str, **values: Any) -> str:
                return text(key, chinese, **{**limits, "name": called, "model": name, **values})

            def refuse(key: str, **values: Any) -> dict:
                return {status: alert(say(key, **values)), result: hide()}

            if not path or not os.path.exists(path):
                return refuse("gone" if path else "nothing")
            try:
                with jobs.running(request.session_hash or "") as check:

                    def report(step: str, done: float, total: float) -> None:
                        check()
                        progress(
                            done / total if total else None, say(step, done=clock(done), total=clock(total))
                        )

                    if not models.is_loaded(name):
                        progress(None, say("loading"))
                    enhancer = models.load(name)
                    folder = Path(after.GRADIO_CACHE) / secrets.token_hex(16)
                    folder.mkdir(parents=True)
                    done = process(
                        path,
                        folder,
                        enhancer,
                        None if decibels >= WITHOUT_LIMIT else decibels,
                        "full" if keep_high else "low",
                        policy=policy,
                        progress=report,
                        alternatives=(say("picture_before", top="{top}"), say("picture_after", top="{top}")),
                    )
            except Stopped:
                return {status: note(say("cancelled")), result: hide()}
            except LimitError:
                return refuse("too_large")
            except AudioError as error:
                logger.info("%s", error)
                return refuse("unreadable")
            except (ModelNotFoundError, ConfigError, CheckpointError) as error:
                logger.warning("%s", error)
                return refuse("no_model")
            except Exception as error:
                logger.exception("the page failed")
                return refuse("failed", reason=html.escape(f"{type(error).__name__}: {error}"))
            return {
                status: note(say("done", length=clock(done.seconds))),
                result: gr.Column(visible=True),
                facts: facts_html(done, say),
                before_picture: done.before_picture,
                after_picture: done.after_picture,
                before: done.before,
                after: done.after,
                download: done.after,
            }

        def prefers_chinese(request: gr.Request) -> bool:
            return is_chinese(request.headers.get("accept-language"))

        def hide() -> Any:
            return gr.Column(visible=False)

        def buttons(busy: bool) -> list:
            return [gr.Button(visible=not busy), gr.Button(visible=busy)]

        def begin(request: gr.Request) -> list:
            if not jobs.enter(request.session_hash or ""):
                raise gr.Error("busy", print_exception=False)  # what follows says it in words
            return [*buttons(busy=True), ""]

        def turn_away(request: gr.Request) -> str:
            return alert(text("busy", prefers_chinese(request)))

        def stop(request: gr.Request) -> list:
            jobs.leave(request.session_hash or "")
            return [*buttons(busy=False), note(text("cancelled", prefers_chinese(request)))]

        def leave(request: gr.Request) -> None:
            jobs.leave(request.session_hash or "")

        directly: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        begun = go.click(begin, None, [go, cancel, status], **directly)
        begun.failure(turn_away, None, status, **directly)
        running = begun.success(
            work,
            [source, model, strength, wide],
            [status, result, facts, before_picture, after_picture, before, after, download],
            concurrency_limit=at_once,
            show_progress_on=status,
            api_name="enhance",
        )
        running.then(lambda: buttons(busy=False), None, [go, cancel], **directly)
        cancel.click(stop, None, [go, cancel, status], cancels=[running], **directly)
        page.unload(leave)
        for name, button in examples.items():
            path = str(FOLDER / "examples" / EXAMPLES[name])
            button.click(lambda path=path: path, None, source, **directly)
    page.queue(max_size=at_once + WAITING)
    return page


def uploads_only(move: Callable[[Any], Awaitable[str | None]]) -> Callable[[Any], Awaitable[str | None]]:
    """What takes a file that a request names, for one that doesn't fetch URLs as gradio would."""

    async def move_upload(path: Any) -> str | None:
        import gradio as gr

        if re.match(r"\s*\w+:/", str(path)):
            raise gr.Error("URLs aren't fetched here: upload the file")
        return await move(path)

    return move_upload


def label_of(model: str) -> str:
    """What the page calls a model: the last of a path, as of a hub's id."""
    return os.path.basename(os.path.normpath(model))


def note(words: str) -> str:
    return f'<p role="status">{words}</p>'


def alert(words: str) -> str:
    return f'<p class="alert" role="alert">{words}</p>'


def facts_html(done: Result, say: Callable[..., str]) -> str:
    """The figures of a result as a list of terms."""
    arrow = '<span class="arrow" aria-hidden="true">→</span>'
    rows = (
        ("length", "", clock(done.seconds)),
        ("level", say("level_info"), f"{decibels(done.levels[0])} {arrow} {decibels(done.levels[1])} dBFS"),
        (
            "background",
            say("background_info"),
            f"{decibels(done.backgrounds[0])} {arrow} {decibels(done.backgrounds[1])} dBFS",
        ),
        (
            "work",
            say("work_info", rtf=f"{done.spent / done.seconds:.2f}"),
            say("work_value", seconds=f"{done.spent:.1f}"),
        ),
    )
    terms = "".join(
        f"<div><dt>{say(key)}</dt><dd>{value} <small>{more}</small></dd></div>" for key, more, value in rows
    )
    return f'<dl class="facts">{terms}</dl>'


def decibels(level: float) -> str:
    """With a minus sign; silence has none."""
    return f"{level:.1f}".replace("-", "−") if level > -119 else "−∞"


def limits_of(policy: Policy) -> dict[str, int]:
    """The numbers in the page's sentences."""
    megabytes, minutes = (policy.max_bytes or 0) >> 20, round((policy.max_duration or 0) / 60)
    return {"megabytes": megabytes, "minutes": minutes, "most": WITHOUT_LIMIT}


def launch(page: Any, host: str, port: int, policy: Policy = SERVED) -> str:
    """Serve the page in the background; returns its address. OSError if the port is taken."""
    import gradio as gr
    from starlette.middleware import Middleware

    limits = limits_of(policy)
    languages = (("en", False), ("zh-CN", True))
    too_large = {key: text("too_large", chinese, name="{name}", **limits) for key, chinese in languages}
    script = (FOLDER / "demo.js").read_text(encoding="utf-8")
    script = script.replace("$LIMIT", str(policy.max_bytes)).replace("$TOO_LARGE", json.dumps(too_large))
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        max_file_size=policy.max_bytes,
        footer_links=[],
        i18n=gr.I18n(**translations(**limits)),
        theme=make_theme(),
        css_paths=FOLDER / "demo.css",
        js=script,
        app_kwargs={"middleware": [Middleware(NoFetching), Middleware(LimitedBodies, Limits(policy=policy))]},
    )
    return address


class NoFetching:
    """An ASGI application in front of gradio's, which would fetch URLs that are named to it as files."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if re.search(r"/(file|proxy)=\s*\w+:/", scope.get("path", ""), re.IGNORECASE):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)
