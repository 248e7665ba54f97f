"""One self-contained HTML page about a run."""

from onnxprune.report.page.document import write_page
from onnxprune.report.page.fronts import sweep_page
from onnxprune.report.page.pages import command_of, comparison_page, inspection_page, result_page, timings_page

__all__ = [
    "command_of",
    "comparison_page",
    "inspection_page",
    "result_page",
    "sweep_page",
    "timings_page",
    "write_page",
]
