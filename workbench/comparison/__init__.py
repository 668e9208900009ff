"""From records to conclusions: paired tests, the Pareto front, the table and the report."""

from workbench.comparison.paired import compare_methods
from workbench.comparison.report import write_report
from workbench.comparison.tables import table

__all__ = ["compare_methods", "table", "write_report"]
