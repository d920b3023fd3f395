"""Headless Chromium through chromedriver's own HTTP interface: no client library to install."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
_FLAGS += " --disable-component-update --disable-sync --hide-scrollbars"


class Browser:
    """One browser; `open` a page at a size and in a colour scheme, then ask it things."""

    def __init__(self, profile: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
        options = {"binary": CHROMIUM, "args": [*_FLAGS.split(), f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._wait()
            answer = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self.driver.kill()
            self.driver.wait()
            raise
        self.session = f"/session/{answer['sessionId']}"

    def close(self) -> None:
        try:
            self._call("DELETE", self.session)
        finally:
            self.driver.kill()
            self.driver.wait()

    def open(self, page: Path, width: int, height: int, scheme: str = "light", media: str = "screen") -> None:
        """Load `page` as a screen of that size would, phones included."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.cdp("Emulation.setEmulatedMedia", media=media, features=features)
        self._post(f"{self.session}/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """What a script returns on the page."""
        return self._post(f"{self.session}/execute/sync", {"script": script, "args": []})

    def console(self) -> list[str]:
        """What the page wrote to the console since last asked, failed loads included."""
        return [entry["message"] for entry in self._post(f"{self.session}/se/log", {"type": "browser"})]

    def screenshot(self, target: Path, whole: bool = True) -> None:
        picture = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole)
        target.write_bytes(base64.b64decode(picture["data"]))

    def pdf(self, target: Path) -> None:
        """Print the page as it would look on paper, background colours off as browsers have it."""
        self.cdp("Emulation.setEmulatedMedia", media="print")
        printed = self.cdp("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        target.write_bytes(base64.b64decode(printed["data"]))

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._post(f"{self.session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _wait(self) -> None:
        for _ in range(100):
            try:
                self._call("GET", "/status")
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        raise RuntimeError("chromedriver did not start")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, json.dumps(body).encode())

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.root + path, body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(error.read().decode()[:500]) from None
