"""From records to conclusions: paired tests, the Pareto front, the table and the report."""

from workbench.compare.curve import fitted_curve
from workbench.compare.data_text import answers_texts, near_text
from workbench.compare.entries import disturbed_text
from workbench.compare.paired import compare_methods
from workbench.compare.report import write_report
from workbench.compare.seeds import over_seeds
from workbench.compare.tables import budget_text, table
from workbench.compare.verdict import conclude, pairs_table

__all__ = [
    "answers_texts",
    "budget_text",
    "compare_methods",
    "conclude",
    "disturbed_text",
    "fitted_curve",
    "near_text",
    "over_seeds",
    "pairs_table",
    "table",
    "write_report",
]
