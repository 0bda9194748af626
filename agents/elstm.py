"""The eLSTM as a core."""

from __future__ import annotations

from typing import Any

from torch import nn

from r2ac.agents.config import Gradient
from r2ac.agents.recurrent import Recurrent


class ELSTM(Recurrent):
    """The element-wise LSTM of Irie et al. 2024 (section 3.2).

        f = sigmoid(F x + w_f c' + b_f)     z = tanh(Z x + w_z c' + b_z)     c = f c' + (1 - f) z
        o = sigmoid(O [x; c] + b_o)         h = o c

    c' is the previous state, zero where an episode begins. F and Z are ``input_weight[0]`` and ``input_weight[1]``, and
    so on. With ``chrono_steps`` the forget gate's biases start at log(u) with u uniform in [1, chrono_steps] (chrono
    initialisation, Tallec and Ollivier 2018). ``settings`` are those of :class:`Recurrent`.
    """

    recurrent_weight: nn.Parameter

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        gradient: Gradient = "rtrl",
        chrono_steps: float = 0,
        **settings: Any,
    ) -> None:
        super().__init__("elstm", input_size, hidden_size, gradient, chrono_steps, **settings)
