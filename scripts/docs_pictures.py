"""Make the pictures of the documentation, from two photographs in the public domain.

    python scripts/docs_pictures.py [NAME ...]

Eileen Collins (NASA) comes with scikit-image, Grace Hopper (US Navy) with matplotlib. The commands are those of the
documentation; pages are opened in Chromium. Everything lands in `docs/assets/pictures/`, as PNGs of 200 colours.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageChops
from playwright.sync_api import sync_playwright
from skimage import data

from motivnet.inference.draw import draw_faces
from motivnet.inference.predictor import Predictor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from video_clip import draw_clip  # noqa: E402

OUT = ROOT / "docs" / "assets" / "pictures"
WIDTH_PX, HEIGHT_PX = 1100, 900
FRAMES = 240


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # argparse checks the empty list as well.
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], help="pictures to make; all if none is named")
    wanted = parser.parse_args().names or [*PICTURES]
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        # Pages show paths as they were given.
        os.chdir(temporary)
        folder = Path()
        photographs = [folder / "collins.jpg", folder / "hopper.jpg"]
        Image.fromarray(data.astronaut()).save(photographs[0], quality=95)
        shutil.copyfile(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", photographs[1])
        for name in wanted:
            picture = PICTURES[name](folder, photographs)
            picture.thumbnail((WIDTH_PX, 2 * HEIGHT_PX))
            file = OUT / f"{name}.png"
            picture.convert("RGB").quantize(200, dither=Image.Dither.NONE).save(file, optimize=True)
            print(file, picture.size, f"{file.stat().st_size / 1e3:.0f} kB")


def annotated(folder: Path, photographs: list[Path]) -> Image.Image:
    """Draw boxes and emotions into both photographs, side by side."""
    results = Predictor.load("nano").predict(photographs)
    pictures = [draw_faces(Image.fromarray(result.picture()), result.faces) for result in results]
    height = min(picture.height for picture in pictures)
    scaled = [picture.resize((picture.width * height // picture.height, height)) for picture in pictures]
    return Image.fromarray(np.concatenate([np.asarray(picture) for picture in scaled], axis=1))


def notebook(folder: Path, photographs: list[Path]) -> Image.Image:
    """Show results as a notebook does."""
    page = folder / "notebook.html"
    page.write_text(Predictor.load("nano").predict(photographs)._repr_html_(), encoding="utf-8")
    return screenshot(page.absolute().as_uri())


def timeline(folder: Path, photographs: list[Path]) -> Image.Image:
    """Plot the emotions of a clip over time."""
    label_clip(folder)
    return Image.open(folder / "emotions.png")


def video_report(folder: Path, photographs: list[Path]) -> Image.Image:
    """Open the report of a clip."""
    label_clip(folder)
    return screenshot((folder / "page.html").absolute().as_uri(), lambda page: page.mouse.wheel(0, HEIGHT_PX))


def live(folder: Path, photographs: list[Path]) -> Image.Image:
    """Show a frame as the live window does."""
    watched = folder / "watched.mp4"
    camera = draw_clip(folder / "camera.mp4", 30)
    motivnet("live", "--camera", str(camera), "--headless", "--out", str(watched))
    import av

    with av.open(str(watched)) as container:
        return [frame.to_image() for frame in container.decode(video=0)][-1]


def heat_maps(folder: Path, photographs: list[Path]) -> Image.Image:
    """Draw the attention of each emotion's query."""
    motivnet("explain", str(photographs[0]), "--out", str(folder / "heat.png"))
    return Image.open(folder / "heat.png")


def evaluation_report(folder: Path, photographs: list[Path]) -> Image.Image:
    """Open the report of an evaluation of shifted, scaled crops of the two faces."""
    crops = folder / "crops"
    if not crops.exists():
        cut_faces(crops, photographs)
    options = ("--data", f"folder:{crops}", "--split", "all", "--out", str(folder / "evaluation"))
    motivnet("evaluate", "--model", "nano", *options)
    return screenshot((folder / "evaluation" / "report.html").absolute().as_uri())


def contact_sheet(folder: Path, photographs: list[Path]) -> Image.Image:
    """Inspect shifted, scaled crops of the two faces, and show the sheets of both labels, one below the other."""
    crops = folder / "crops"
    if not crops.exists():
        cut_faces(crops, photographs)
    motivnet("data", "inspect", f"folder:{crops}?labels=happiness,neutral", "--out", str(folder / "inspection"))
    sheets = [Image.open(path).convert("RGB") for path in sorted((folder / "inspection").glob("*.png"))]
    return Image.fromarray(np.concatenate([np.asarray(sheet) for sheet in sheets]))


def agreement_report(folder: Path, photographs: list[Path]) -> Image.Image:
    """Open the report on the agreement with a coder who saw one of the two faces of a clip."""
    label_clip(folder)
    rows = pd.read_parquet(folder / "rows.parquet")
    seen = next(row["track"] for row in rows.to_dict("records") if row["emotion"] == "neutral")
    codes = f"start_s,end_s,code,person\n0,5,neutral,{seen}\n5,8,sad,{seen}\n0,8,happy,{1 - seen}\n"
    (folder / "anna.csv").write_text(codes, encoding="utf-8")
    motivnet(
        "agree", str(folder / "rows.parquet"), str(folder / "anna.csv"), "--report", str(folder / "agreement.html")
    )
    return screenshot((folder / "agreement.html").absolute().as_uri())


def server_page(folder: Path, photographs: list[Path]) -> Image.Image:
    """Drop the photographs on the server's page."""
    return on_server(lambda page: drop(page, photographs))


def page_video(folder: Path, photographs: list[Path]) -> Image.Image:
    """Drop a video on the server's page, and go to its middle."""
    clip = draw_clip(folder / "clip.mp4", FRAMES)

    def act(page) -> None:
        drop(page, [clip])
        page.evaluate("document.querySelector('#clip').currentTime = 4")
        page.wait_for_function("() => !document.querySelector('#clip').seeking")
        page.wait_for_timeout(500)
        page.evaluate("scrollTo(0, document.querySelector('.work').offsetTop - 20)")

    return on_server(act)


def static_page(folder: Path, photographs: list[Path]) -> Image.Image:
    """Open the page that needs no server, and drop the photographs on it."""
    motivnet("page", str(folder / "faces"))
    return screenshot((folder / "faces" / "index.html").absolute().as_uri(), lambda page: drop(page, photographs))


def table(folder: Path, photographs: list[Path]) -> Image.Image:
    """Show the rows of a clip as pandas reads them."""
    label_clip(folder)
    rows = pd.read_parquet(folder / "rows.parquet")
    columns = ["frame", "time_s", "track", "emotion", *(name for name in rows if name.startswith("prob"))]
    page = folder / "table.html"
    style = "<style>table { font: 13px sans-serif; border-spacing: 10px 4px } td { text-align: right }</style>"
    page.write_text(style + rows[columns].head(12).round(3).to_html(index=False, border=0), encoding="utf-8")
    return screenshot(page.absolute().as_uri())


PICTURES: dict[str, Callable[[Path, list[Path]], Image.Image]] = {
    "annotated": annotated,
    "notebook": notebook,
    "timeline": timeline,
    "video_report": video_report,
    "live": live,
    "heat_maps": heat_maps,
    "evaluation_report": evaluation_report,
    "contact_sheet": contact_sheet,
    "agreement_report": agreement_report,
    "server_page": server_page,
    "page_video": page_video,
    "static_page": static_page,
    "table": table,
}


def cut_faces(crops: Path, photographs: list[Path]) -> None:
    """Write shifted, scaled crops of the two faces into a folder for each label."""
    rng = np.random.default_rng(0)
    for photograph, label in zip(photographs, ("happiness", "neutral"), strict=True):
        (face,) = Predictor.load("nano").predict(photograph)[0].faces[:1]
        (crops / label).mkdir(parents=True)
        image = Image.open(photograph)
        for number in range(40):
            x, y, width, height = (float(value) for value in face.box)
            dx, dy, zoom = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.uniform(0.8, 1.4)
            box = (x + dx * width, y + dy * height, x + (dx + zoom) * width, y + (dy + zoom) * height)
            image.crop(box).save(crops / label / f"{photograph.stem}-{number}.png")


def label_clip(folder: Path) -> None:
    """Label a clip once, with everything that `motivnet video` writes."""
    if (folder / "rows.parquet").exists():
        return
    clip = draw_clip(folder / "interview.mp4", FRAMES)
    outputs = {"--out": "rows.parquet", "--timeline": "emotions.png", "--report": "page.html"}
    words = [word for option, name in outputs.items() for word in (option, str(folder / name))]
    motivnet("video", str(clip), *words, "--fps", "10")


def screenshot(address: str, act: Callable[..., None] = lambda page: None) -> Image.Image:
    """Open a page in Chromium, and return its picture."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright, tempfile.NamedTemporaryFile(suffix=".png") as file:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
        page.goto(address)
        act(page)
        page.screenshot(path=file.name, animations="disabled")
        browser.close()
        picture = Image.open(file.name).convert("RGB")
    corner = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    _, _, _, bottom = ImageChops.difference(picture, corner).getbbox() or (0, 0, 0, picture.height)
    return picture.crop((0, 0, picture.width, min(bottom + 20, picture.height)))


def drop(page, files: list[Path]) -> None:
    """Give files to the page, and wait until they are answered."""
    page.set_input_files("#files", [str(path) for path in files])
    page.wait_for_selector(f"#thumbs li:nth-child({len(files)})", timeout=120_000)
    page.wait_for_selector("#progress", state="hidden")


def on_server(act: Callable[..., None]) -> Image.Image:
    """Start a server, and return the picture of its page after `act`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "motivnet", "serve", "--port", str(port)])
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/healthz", server)
        return screenshot(address, act)
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    """Wait for an answer, as long as the server runs."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server has ended")


def motivnet(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "motivnet", *words], check=True)


if __name__ == "__main__":
    main()
