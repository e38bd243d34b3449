"""Logging set-up: structlog rendered by the standard handlers, so grpc and aiohttp share it.

Each program calls `set_up` once, first. Everything else takes `structlog.get_logger()`, binds
fields with `structlog.contextvars` at a loop's edge, and logs fixed phrases with fields.
"""

import logging
import sys
from typing import TextIO

# structlog's console loads rich where it finds it, which the development tools bring: 3 MB for
# tracebacks that are drawn plain here.
_HIDDEN = "rich" not in sys.modules
if _HIDDEN:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402 - see above
from structlog.typing import Processor  # noqa: E402

if _HIDDEN:
    del sys.modules["rich"]

_TRACES = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Locals stay out of the log: keys, tokens and secrets are among them."""

_QUIET = ("aiohttp.access", "asyncio", "grpc", "grpc._cython")


def set_up(
    program: str,
    *,
    level: str = "info",
    as_json: bool | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send all logging to `stream` (stderr) as JSON lines, or aligned text on a terminal.

    `as_json` None decides by whether the stream is a terminal. May be called again: a forked
    program sets its own name.
    """
    out = stream if stream is not None else sys.stderr
    json_lines = not out.isatty() if as_json is None else as_json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _named(program),
                *_rendering(json_lines),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _rendering(json_lines: bool) -> list[Processor]:
    if json_lines:
        return [
            structlog.processors.ExceptionRenderer(_TRACES),
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain)]


def _named(program: str) -> Processor:
    def add(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["program"] = program
        return event

    return add
