"""How accurate transcripts are: reference texts, scores, what is chance and what is not, and the report."""

from daemon.evaluation.bootstrap import LEVEL, N_RESAMPLES, SEED
from daemon.evaluation.calibration import Curve, Fit
from daemon.evaluation.chunk_files import ChunkFiles
from daemon.evaluation.curve_files import CurveReader, StoredCurve, curve_path, read_curve, write_curve
from daemon.evaluation.normalization import NORMALIZATIONS
from daemon.evaluation.page import render_page
from daemon.evaluation.references import Reference, find_references
from daemon.evaluation.report import Arm, Report, make_report
from daemon.evaluation.scoring import Score, score

__all__ = [
    "LEVEL",
    "NORMALIZATIONS",
    "N_RESAMPLES",
    "SEED",
    "Arm",
    "ChunkFiles",
    "Curve",
    "CurveReader",
    "Fit",
    "Reference",
    "Report",
    "Score",
    "StoredCurve",
    "curve_path",
    "find_references",
    "make_report",
    "read_curve",
    "render_page",
    "score",
    "write_curve",
]
