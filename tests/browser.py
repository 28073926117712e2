"""Chromium, driven through its own pipe: no package beside the standard library.

Messages of the DevTools protocol are JSON, ended by a zero byte; the browser reads them from file 3
and writes to file 4.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
SECONDS = 60  # to wait for an answer
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


class Browser:
    """One page in one browser, with what it said and asked for."""

    def __init__(self, read: int, write: int):
        self.read, self.write = read, write
        self.number, self.buffer = 0, b""
        self.complaints: list[str] = []  # errors of scripts, and of the page's policy
        self.asked: list[str] = []  # addresses that were asked for
        self.session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command."""
        self.number += 1
        number = self.number
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        for found in self._messages():
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]
        raise AssertionError("unreachable")

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Messages as they come, forever; each is noted."""
        until = time.monotonic() + SECONDS
        while True:
            while b"\0" in self.buffer:
                text, _, self.buffer = self.buffer.partition(b"\0")
                message = json.loads(text)
                self._note(message)
                yield message
            if not select.select([self.read], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {SECONDS} s")
            part = os.read(self.read, 1 << 20)
            if not part:
                raise EOFError("Chromium has ended")
            self.buffer += part

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(params["entry"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def screen(self, width: int, height: int, *, dark: bool = False, scripts: bool = True) -> None:
        """What the page is shown on."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.send("Emulation.setEmulatedMedia", features=[scheme, still])
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)

    def open(self, url: str) -> None:
        """Load a page, and wait for it."""
        self.send("Page.navigate", url="about:blank")
        self.complaints.clear()
        self.asked.clear()
        self.send("Page.navigate", url=url)
        for _ in range(SECONDS * 10):
            state = self.run("document.readyState + ' ' + location.href")
            if state.startswith("complete") and "about:blank" not in state:
                return
            time.sleep(0.1)
        raise TimeoutError(f"{url} is not loaded after {SECONDS} s")

    def run(self, script: str) -> Any:
        """What an expression of JavaScript is, as JSON has it; of a promise, what comes of it."""
        found = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def key(self, key: str) -> None:
        """Press and release a key."""
        code = {"Tab": 9, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37, "Enter": 13, " ": 32}
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            given = text if kind == "keyDown" else {}
            number = code.get(key, ord(key[0].upper()))
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=number, **given
            )

    def mouse(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse there, and click."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self.send(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
                )

    def picture(self, path: Path) -> None:
        """What the screen shows, as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def printed(self, path: Path) -> None:
        """The page on paper, as a PDF."""
        found = self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`, ended with the block."""
    read_theirs, write_ours = os.pipe()
    read_ours, write_theirs = os.pipe()
    command = shlex.join(
        [CHROMIUM, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'user'}"]
    )
    process = subprocess.Popen(
        ["bash", "-c", f"exec 3<&{read_theirs} 4>&{write_theirs}; exec {command}"],
        pass_fds=(read_theirs, write_theirs),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_theirs)
    os.close(write_theirs)
    try:
        yield Browser(read_ours, write_ours)
    finally:
        os.close(write_ours)
        os.close(read_ours)
        process.terminate()
        process.wait(timeout=SECONDS)
