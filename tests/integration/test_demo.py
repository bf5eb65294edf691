"""``avinet demo`` as programs start it."""

import json
import signal
import subprocess
import sys

PROGRAM = "from avinet.app.cli.main import main; main()"


def test_its_json_is_one_document_once_all_is_up_and_the_rest_is_on_stderr(tmp_path):
    line = (
        sys.executable,
        "-c",
        PROGRAM,
        "demo",
        "--json",
        "--engines",
        "1",
        "--dir",
        str(tmp_path / "demo"),
    )
    with (
        (tmp_path / "err").open("w") as err,
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=err) as run,
    ):
        try:
            lines = iter(run.stdout.readline, b"")
            document = b""
            for text in lines:
                document += text
                if text == b"}\n":
                    break
            up = json.loads(document)
            assert up["folder"] == str(tmp_path / "demo")
            state = up["controllers"][0]["state"]
            asked = (sys.executable, "-c", PROGRAM, "--state", state, "se", "list", "--json")
            found = json.loads(subprocess.run(asked, capture_output=True, check=True, timeout=30).stdout)
            assert [(row["name"], row["state"]) for row in found["results"]] == [("se-1", "UP")]
            assert [row["uuid"] for row in found["results"]] == [row["uuid"] for row in up["service_engines"]]
            run.send_signal(signal.SIGINT)
            assert not run.stdout.read()
            assert run.wait(timeout=30) == 0
        finally:
            run.kill()
    assert "up after" in (tmp_path / "err").read_text()
