"""Physics-informed neural ptychography for Ptychodus. Importing this loads no framework and no host."""

__version__ = '0.1.0'
