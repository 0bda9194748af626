"""The cells by name; :mod:`r2ac.kernels.cells.base` says how to add one."""

from r2ac.kernels.cells.base import Cell, Linearisation
from r2ac.kernels.cells.elstm import ELSTMCell
from r2ac.kernels.cells.indrnn import IndRNNCell
from r2ac.kernels.cells.lru import LRUCell
from r2ac.kernels.cells.mingru import MinGRUCell
from r2ac.kernels.cells.minlstm import MinLSTMCell
from r2ac.kernels.cells.qrnn import QRNNCell
from r2ac.kernels.cells.rglru import RGLRUCell
from r2ac.kernels.cells.rtu import RTUCell

__all__ = ["CELLS", "Cell", "Linearisation"]

CELLS: dict[str, Cell] = {
    "elstm": ELSTMCell(),
    "indrnn": IndRNNCell(),
    "lru": LRUCell(),
    "mingru": MinGRUCell(),
    "minlstm": MinLSTMCell(),
    "qrnn": QRNNCell(),
    "rglru": RGLRUCell(),
    "rtu": RTUCell(),
}
