"""One page in a real browser: headless Chromium through its own protocol on a pipe."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no chromium on PATH to look at a page with"
)


class Browser:
    """One page in headless Chromium; no network, and no package but the standard library."""

    def __init__(self, folder: Path) -> None:
        """Start it; its profile and what it saves go into an empty folder."""
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        # Chromium reads commands from 3 and writes to 4; neither end may lie there already.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (*os.pipe(), *os.pipe())]
        theirs_in, self._out, self._in, theirs_out = ends

        def place() -> None:
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        command = [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-dev-shm-usage"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "about:blank"),
        ]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=place,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._number, self._session = b"", 0, None
        self.console: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        self.requests: list[str] = []

    def send(self, method: str, **params: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], deadline - time.monotonic())[0], "no answer"
            read = os.read(self._in, 1 << 20)
            assert read, "the browser is gone"
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        told: dict[str, Any] = json.loads(text)
        if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(told["params"]))
        if told.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["params"]["request"]["url"][:60])
        return told

    def run(self, program: str) -> Any:
        result = self.send(
            "Runtime.evaluate", expression=program, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, page: Path, state: str = "start") -> None:
        """Load a page and wait until it is in this state."""
        self.send("Page.navigate", url=page.as_uri())
        self.wait_for(state)

    def wait_for(self, *states: str) -> str:
        """Until the page is in one of these states."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            state = self.run("document.documentElement?.dataset.state ?? ''")
            if state in states:
                return str(state)
            time.sleep(0.01)
        raise AssertionError(f"never {states}, but {state!r}")

    def press(self, key: str) -> None:
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, " ": 32}.get(
            key, ord(key.upper()[0])
        )
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text
            )

    def tap(self, selector: str) -> None:
        x, y = self.run(
            f"(() => {{const box = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]})()"
        )
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of the first such element, scrolled into view."""
        left, top, width, height = self.run(
            f"(() => {{const found = document.querySelector({json.dumps(selector)});"
            " found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect();"
            " return [box.x, box.y, box.width, box.height]})()"
        )
        return left, top, width, height

    def click(self, selector: str, count: int = 1) -> None:
        left, top, width, height = self.box(selector)
        for number in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.mouse(kind, left + width / 2, top + height / 2, clickCount=number)

    def drag(self, selector: str, start: float, end: float, *, touch: bool = False) -> None:
        """Press at a share of an element's width, move to another, and let go."""
        left, top, width, height = self.box(selector)
        y = top + height / 2
        xs = [left + width * share for share in (start, (start + end) / 2, end)]
        if touch:
            for kind, x in zip(("touchStart", "touchMove", "touchMove"), xs, strict=True):
                self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
            self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            return
        self.mouse("mousePressed", xs[0], y)
        for x in xs[1:]:
            self.mouse("mouseMoved", x, y)
        self.mouse("mouseReleased", xs[2], y)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        self.send("Input.dispatchMouseEvent", **(event | more))

    def drawn(self) -> None:
        """Until what was changed is on the screen."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def be_a_phone(self) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=390,
            height=844,
            deviceScaleFactor=2,
            mobile=True,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=True)

    def be_a_desk(self) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=1200,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=False)

    def picture(self) -> Image.Image:
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if folder := os.environ.get("IMG2IMG_KEEP_SCREENSHOTS"):
            image.save(Path(folder, f"{time.monotonic():.1f}.png"))
        return image

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self._session = None
            self.send("Browser.close")
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._in)
        os.close(self._out)
