"""A headless browser that a test steers: the DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
#: nothing is asked of the network but what the page wants
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
]  # fmt: skip


class Browser:
    """One tab. Open it with `with`; what is asked ends with an error after `patience` seconds."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900) -> None:
        assert BROWSER is not None
        self.command = [
            *(BROWSER, *QUIET, f"--user-data-dir={profile}", f"--window-size={width},{height}"),
            *("--remote-debugging-pipe", "about:blank"),
        ]
        self.patience = 60.0
        self._asked = 0
        self._rest = b""

    def __enter__(self) -> Self:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def pipes() -> None:  # the browser reads 3 and writes 4
            kept = os.dup(theirs_out)
            os.dup2(theirs_in, 3)
            os.dup2(kept, 4)

        self._process = subprocess.Popen(
            self.command,
            preexec_fn=pipes,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        (tab,) = (t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        told = self._ask("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = told["sessionId"]
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)

    def open(self, address: str) -> None:
        """Go to a page."""
        self._ask("Page.navigate", self._session, url=address)

    def value(self, expression: str) -> Any:
        """A JavaScript expression's value, as JSON; a promise is waited for."""
        told = self._ask(
            "Runtime.evaluate",
            self._session,
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + self.patience
        while time.monotonic() < until:
            if self.value(f"!!({expression})"):
                return
            time.sleep(0.1)
        raise AssertionError(f"{expression} stayed false: {self.value('document.body.innerText')}")

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._ask("Input.insertText", self._session, text=text)

    def picture(self) -> bytes:
        """A PNG of the whole page."""
        told = self._ask("Page.captureScreenshot", self._session, captureBeyondViewport=True)
        return base64.b64decode(told["data"])

    def _ask(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        self._asked += 1
        request: dict[str, Any] = {"id": self._asked, "method": method, "params": given}
        if session is not None:
            request["sessionId"] = session
        os.write(self._out, json.dumps(request).encode() + b"\0")
        while True:
            told = json.loads(self._next())
            if told.get("id") == self._asked:
                assert "error" not in told, told["error"]
                return told["result"]

    def _next(self) -> bytes:
        while b"\0" not in self._rest:
            read = os.read(self._in, 1 << 16)
            assert read, "the browser ended"
            self._rest += read
        told, _, self._rest = self._rest.partition(b"\0")
        return told
