"""The plug-in in Ptychodus's window: a panel per reconstructor, and the Infer button kept right.

The only part that imports Qt. Everything runs in the main thread.
"""

from __future__ import annotations

from .factory import PanelFactory
from .infer_button import InferButton

__all__ = ['InferButton', 'PanelFactory']
