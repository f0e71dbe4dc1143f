"""Swagger UI in a real browser, under the server's policy, and the notice on the page."""

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from playwright.sync_api import expect

from motivnet.labels import EU_NOTICE


@pytest.mark.parametrize("below", ["", "below/a/path/"])
def test_a_route_can_be_tried(visit, below):
    # The fixture fails if anything is asked of another host, or refused by the policy.
    page = visit(f"{below}docs", wait_for="#docs .opblock")
    page.click("text=Whether the process runs")
    page.click("text=Try it out")
    page.click("button.execute")
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_the_notice_stands_above_everything(visit):
    page = visit("below/a/path/")
    expect(page.locator("#notice")).to_have_text(EU_NOTICE)
    assert page.locator("#notice").bounding_box()["y"] < page.locator("h1").bounding_box()["y"]
    expect(visit().locator("#notice")).to_be_hidden()
