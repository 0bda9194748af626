"""The cells by name; :mod:`r2ac.kernels.cells.base` says how to add one."""

from r2ac.kernels.cells.base import Cell, Linearisation
from r2ac.kernels.cells.elstm import ELSTMCell
from r2ac.kernels.cells.indrnn import IndRNNCell
from r2ac.kernels.cells.linear import LinearCell
from r2ac.kernels.cells.lru import LRUCell
from r2ac.kernels.cells.mingru import MinGRUCell
from r2ac.kernels.cells.minlstm import MinLSTMCell
from r2ac.kernels.cells.qrnn import QRNNCell
from r2ac.kernels.cells.rglru import RGLRUCell
from r2ac.kernels.cells.rotation import InputRotationCell, RotationCell
from r2ac.kernels.cells.rtu import RTUCell
from r2ac.kernels.cells.s5 import S5Cell
from r2ac.kernels.cells.sru import SRUCell

__all__ = ["CELLS", "Cell", "LinearCell", "Linearisation"]

CELLS: dict[str, Cell] = {
    "elstm": ELSTMCell(),
    "indrnn": IndRNNCell(),
    "input_rotation": InputRotationCell(),
    "lru": LRUCell(),
    "mingru": MinGRUCell(),
    "minlstm": MinLSTMCell(),
    "qrnn": QRNNCell(),
    "rglru": RGLRUCell(),
    "rotation": RotationCell(),
    "rtu": RTUCell(),
    "s5": S5Cell(),
    "sru": SRUCell(),
}
