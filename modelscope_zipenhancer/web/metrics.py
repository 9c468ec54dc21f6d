"""What Prometheus is told of the server: requests, audio, speed, the queue, errors."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from .limits import Message, Receive, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RTF = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Of one application; `text` is what /metrics answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory and open files, on Linux
        of = {"registry": self.registry}
        self.requests = Counter("zipenhancer_requests", "Answers, by status", ["route", "status"], **of)
        self.seconds = Histogram(
            "zipenhancer_request_seconds", "From header to end of answer", ["route"], buckets=SECONDS, **of
        )
        self.audio = Counter("zipenhancer_audio_seconds", "Audio enhanced", ["route"], **of)
        self.work = Counter("zipenhancer_work_seconds", "Time spent on it by a thread", ["route"], **of)
        self.rtf = Histogram("zipenhancer_rtf", "Work / audio, of a recording", buckets=RTF, **of)
        self.errors = Counter("zipenhancer_errors", "Recordings and streams that failed", ["kind"], **of)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is asked for when /metrics is."""
        Gauge(f"zipenhancer_{name}", text, registry=self.registry).set_function(value)

    def enhanced(self, route: str, audio: float, work: float) -> None:
        """So many seconds of audio took so many of a thread's time."""
        self.audio.labels(route).inc(audio)
        self.work.labels(route).inc(work)
        if route == "/v1/enhance" and audio:
            self.rtf.observe(work / audio)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Counted:
    """An ASGI application in front of another: each answer is counted, by route and status."""

    def __init__(self, app: Callable, metrics: Metrics, routes: tuple[str, ...], clock: Callable[[], float]):
        self.app, self.metrics, self.routes, self.clock = app, metrics, routes, clock

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        # A path that is none would be a series of its own, and a stranger could make millions.
        route = scope["path"] if scope["path"] in self.routes else "other"
        status, begun = 0, self.clock()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            self.metrics.requests.labels(route, str(status)).inc()
            if scope["type"] == "http":
                self.metrics.seconds.labels(route).observe(self.clock() - begun)
