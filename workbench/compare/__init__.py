"""From records to conclusions: paired tests, the Pareto front, the table and the report."""

from workbench.compare.paired import compare_methods
from workbench.compare.report import write_report
from workbench.compare.seeds import over_seeds
from workbench.compare.tables import budget_text, table

__all__ = ["budget_text", "compare_methods", "over_seeds", "table", "write_report"]
