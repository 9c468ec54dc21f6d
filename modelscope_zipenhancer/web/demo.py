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

import gradio as gr
from starlette.middleware import Middleware

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


class Page:
    """The page: what is on it, and what its buttons do.

    Args:
        models: to choose from; the first is chosen at first.
        policy: what may be uploaded.
        at_once: recordings that are worked on at a time; the next wait in a queue.
    """

    def __init__(self, models: Models, *, policy: Policy = SERVED, at_once: int = 1) -> None:
        self.models, self.policy, self.at_once = models, policy, at_once
        self.jobs, self.limits = Jobs(at_once + WAITING), limits_of(policy)
        words = self.words = gr.I18n(**translations(**self.limits))
        with gr.Blocks(
            title="ZipEnhancer", analytics_enabled=False, delete_cache=(600, KEEP_SECONDS), fill_width=False
        ) as self.blocks:
            gr.Markdown(words("title"), elem_id="title")
            gr.Markdown(words("lead"), elem_id="lead")
            with gr.Row(elem_id="top"):
                with gr.Column(scale=3, min_width=320):
                    self.put_source()
                with gr.Column(scale=2, min_width=320, elem_id="options"):
                    self.put_options()
            self.status = gr.HTML("", elem_id="status", padding=False)
            with gr.Column(visible=False, elem_id="result") as self.result:
                self.put_result()
            gr.Markdown(words("about"), elem_classes="note", elem_id="about")
            self.connect()
        self.blocks.queue(max_size=at_once + WAITING)

    def put_source(self) -> None:
        words = self.words
        self.source = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label=words("recording"),
            elem_id="source",
            buttons=[],
        )
        self.source.async_move_resource_to_block_cache = uploads_only(
            self.source.async_move_resource_to_block_cache
        )
        gr.Markdown(words("limits"), elem_classes="note")
        with gr.Row(elem_id="examples"):
            gr.Markdown(words("examples"), elem_classes="note")
            self.examples = {
                name: gr.Button(words(name), size="sm", min_width=80, elem_id=f"example-{name}")
                for name in EXAMPLES
            }

    def put_options(self) -> None:
        words, names = self.words, self.models.names
        self.model = gr.Radio(
            [(label_of(name), name) for name in names],
            value=names[0],
            label=words("model"),
            info=words("model_info"),
            elem_id="model",
        )
        self.strength = gr.Slider(
            0,
            WITHOUT_LIMIT,
            value=WITHOUT_LIMIT,
            step=1,
            label=words("strength"),
            info=words("strength_info"),
            elem_id="strength",
            buttons=[],
        )
        self.wide = gr.Checkbox(label=words("bandwidth"), info=words("bandwidth_info"), elem_id="bandwidth")
        self.go = gr.Button(words("enhance"), variant="primary", elem_id="enhance")
        self.cancel = gr.Button(words("cancel"), variant="stop", visible=False, elem_id="cancel")

    def put_result(self) -> None:
        words = self.words
        self.facts = gr.HTML("", elem_id="facts", padding=False)
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown(words("before_heading"))
                self.before_picture = gr.HTML("", elem_id="picture-before", padding=False)
                self.before = self.put_player("before")
            with gr.Column(min_width=320):
                gr.Markdown(words("after_heading"))
                self.after_picture = gr.HTML("", elem_id="picture-after", padding=False)
                self.after = self.put_player("after")
                self.download = gr.DownloadButton(words("download"), variant="primary", elem_id="download")

    def put_player(self, side: str) -> gr.Audio:
        """The browser's own, since the picture is above it."""
        return gr.Audio(
            label=self.words(side),
            show_label=False,
            container=False,
            interactive=False,
            buttons=[],
            waveform_options={"show_recording_waveform": False},
            elem_id=side,
        )

    def connect(self) -> None:
        """What follows a click."""
        go, cancel, status = self.go, self.cancel, self.status
        directly: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        begun = go.click(self.begin, None, [go, cancel, status], **directly)
        begun.failure(self.turn_away, None, status, **directly)
        pictures = [self.before_picture, self.after_picture]
        running = begun.success(
            self.work,
            [self.source, self.model, self.strength, self.wide],
            [status, self.result, self.facts, *pictures, self.before, self.after, self.download],
            concurrency_limit=self.at_once,
            show_progress_on=status,
            api_name="enhance",
        )
        running.then(lambda: buttons(busy=False), None, [go, cancel], **directly)
        cancel.click(self.stop, None, [go, cancel, status], cancels=[running], **directly)
        self.blocks.unload(self.leave)
        for name, button in self.examples.items():
            path = str(FOLDER / "examples" / EXAMPLES[name])
            button.click(lambda path=path: path, None, self.source, **directly)

    def begin(self, request: gr.Request) -> list:
        if not self.jobs.enter(request.session_hash or ""):
            raise gr.Error("busy", print_exception=False)  # what follows says it in words
        return [*buttons(busy=True), ""]

    def turn_away(self, request: gr.Request) -> str:
        return alert(text("busy", prefers_chinese(request)))

    def stop(self, request: gr.Request) -> list:
        self.leave(request)
        return [*buttons(busy=False), note(text("cancelled", prefers_chinese(request)))]

    def leave(self, request: gr.Request) -> None:
        self.jobs.leave(request.session_hash or "")

    def work(
        self,
        path: str | None,
        name: str,
        decibels: float,
        keep_high: bool,
        request: gr.Request,
        progress: Any = gr.Progress(),
    ) -> dict:
        """A recording enhanced and shown, or why not."""
        chinese = prefers_chinese(request)
        called = html.escape(Path(path).name) if path else ""

        def say(key: str, **values: Any) -> str:
            return text(key, chinese, **{**self.limits, "name": called, "model": name, **values})

        def refuse(key: str, **values: Any) -> dict:
            return {self.status: alert(say(key, **values)), self.result: hidden()}

        if not path or not os.path.exists(path):
            return refuse("gone" if path else "nothing")
        try:
            with self.jobs.running(request.session_hash or "") as check:

                def report(step: str, done: float, total: float) -> None:
                    check()
                    progress(done / total if total else None, say(step, done=clock(done), total=clock(total)))

                if not self.models.is_loaded(name):
                    progress(None, say("loading"))
                enhancer = self.models.load(name)
                folder = Path(self.after.GRADIO_CACHE) / secrets.token_hex(16)
                folder.mkdir(parents=True)
                done = process(
                    path,
                    folder,
                    enhancer,
                    None if decibels >= WITHOUT_LIMIT else decibels,
                    "full" if keep_high else "low",
                    policy=self.policy,
                    progress=report,
                    alternatives=(say("picture_before", top="{top}"), say("picture_after", top="{top}")),
                )
        except Stopped:
            return {self.status: note(say("cancelled")), self.result: hidden()}
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
            self.status: note(say("done", length=clock(done.seconds))),
            self.result: gr.Column(visible=True),
            self.facts: facts_html(done, say),
            self.before_picture: done.before_picture,
            self.after_picture: done.after_picture,
            self.before: done.before,
            self.after: done.after,
            self.download: done.after,
        }

    def launch(self, host: str, port: int) -> str:
        """Serve the page in the background; returns its address. OSError if the port is taken."""
        languages = (("en", False), ("zh-CN", True))
        too_large = {
            key: text("too_large", chinese, name="{name}", **self.limits) for key, chinese in languages
        }
        script = (FOLDER / "demo.js").read_text(encoding="utf-8")
        script = script.replace("$LIMIT", str(self.policy.max_bytes))
        script = script.replace("$TOO_LARGE", json.dumps(too_large))
        bodies = Middleware(LimitedBodies, Limits(policy=self.policy))
        _, address, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            max_file_size=self.policy.max_bytes,
            footer_links=[],
            i18n=self.words,
            theme=make_theme(),
            css_paths=FOLDER / "demo.css",
            js=script,
            app_kwargs={"middleware": [Middleware(NoFetching), bodies]},
        )
        return address

    def close(self) -> None:
        """End the server."""
        self.blocks.close(verbose=False)


def prefers_chinese(request: gr.Request) -> bool:
    return is_chinese(request.headers.get("accept-language"))


def hidden() -> gr.Column:
    return gr.Column(visible=False)


def buttons(busy: bool) -> list[gr.Button]:
    """The two that take turns, enhance and cancel."""
    return [gr.Button(visible=not busy), gr.Button(visible=busy)]


def uploads_only(move: Callable[[Any], Awaitable[str | None]]) -> Callable[[Any], Awaitable[str | None]]:
    """What takes a file that a request names, for one that doesn't fetch URLs as gradio would."""

    async def move_upload(path: Any) -> str | None:
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
