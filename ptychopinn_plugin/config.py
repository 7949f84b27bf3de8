"""Every setting, declared once. The CLI flags, the host's settings and the GUI panel are made from
these fields.

A field's `Setting` carries its label, help, unit, range or choices; its default is the dataclass
default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, TypeVar

from .errors import ConfigError, explain

AUTOENCODER, UNROLLED = 'autoencoder', 'unrolled'
MOST_SWEEPS = 100_000


@dataclass(frozen=True)
class Setting:
    """What a user interface must know about a field besides its default."""

    label: str
    help: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False
    flag: str | None = None  # command line flag when it is not the field's name
    architecture: str = ''  # the only one for which it has an effect
    mode: str = ''  # likewise


def setting(default: Any, label: str, help: str, **more: Any) -> Any:
    """Declare a settings field."""
    return field(default=default, metadata={'setting': Setting(label, help, **more)})


def declared(cls: type) -> Iterator[tuple[Field[Any], Setting]]:
    """Yield every (field, setting) of a configuration class in order."""
    for f in fields(cls):
        yield f, f.metadata['setting']


def check(config: Any) -> None:
    """Refuse a configuration with a wrong type, a value out of range or an unknown choice."""
    for f, s in declared(type(config)):
        value: Any = getattr(config, f.name)
        wanted: Any = type(f.default)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ConfigError(
                explain(
                    f'{f.name} has the wrong type',
                    expected=wanted.__name__,
                    received=f'{f.name}={value!r}',
                )
            )
        low_ok = s.low is None or value >= s.low
        high_ok = s.high is None or value <= s.high
        if not (low_ok and high_ok):  # also refuses NaN
            raise ConfigError(
                explain(
                    f'{f.name} is out of range',
                    expected=f'{s.low} <= {f.name} <= {s.high}',
                    received=f'{f.name}={value!r}',
                )
            )
        if s.choices and value not in s.choices:
            raise ConfigError(
                explain(
                    f'{f.name} is not one of its choices',
                    expected=' | '.join(s.choices),
                    received=f'{f.name}={value!r}',
                )
            )
        if wanted is float:  # after the range check: a huge integer does not fit a float
            object.__setattr__(config, f.name, float(value))


@dataclass(frozen=True)
class ModelConfig:
    """What the network is."""

    architecture: str = setting(
        UNROLLED,
        'Architecture',
        'unrolled works on the object between sweeps and starts from the weights that come with '
        'the plug-in; autoencoder, as published, makes a patch of each pattern.',
        choices=(UNROLLED, AUTOENCODER),
    )
    mode: str = setting(
        'pinn',
        'Mode',
        'pinn trains on counts only; supervised trains on known objects.',
        choices=('pinn', 'supervised'),
    )
    pattern_size_px: int = setting(
        64, 'Pattern size', 'Side of the patterns; taken from the data when training.',
        unit='px', low=32, high=512, advanced=True,
    )  # fmt: skip
    gridsize: int = setting(
        1, 'Grid size',
        'Only for the autoencoder: it sees gridsize x gridsize neighbouring patterns at once.',
        low=1, high=4, architecture=AUTOENCODER,
    )  # fmt: skip
    n_filters_scale: int = setting(
        2, 'Filter scale',
        'Only for the autoencoder: multiplies the number of filters of every stage.',
        low=1, high=8, advanced=True, architecture=AUTOENCODER,
    )  # fmt: skip
    probe_big: bool = setting(
        True, 'Outer frame',
        'Only for the autoencoder: four reserved decoder channels predict the outer frame of each '
        'patch at low resolution.',
        advanced=True, architecture=AUTOENCODER,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if self.pattern_size_px % 2:
            raise ConfigError(
                explain(
                    'pattern_size_px is odd',
                    expected='an even number',
                    received=f'pattern_size_px={self.pattern_size_px}',
                )
            )


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained."""

    epochs: int = setting(50, 'Epochs', 'Passes over the training patterns.', low=1, high=100_000)
    batch_size: int = setting(
        16, 'Batch size', 'Patterns (groups, when gridsize > 1) per step.', low=1, high=4096
    )
    learning_rate: float = setting(
        1e-3,
        'Learning rate',
        'Step size of Adam at its highest; a tenth of it where the architecture unrolled does not '
        'begin from scratch.',
        low=1e-8,
        high=1.0,
    )
    schedule: str = setting(
        'cosine', 'Schedule', 'How the learning rate falls over the epochs.',
        choices=('cosine', 'plateau', 'constant'), advanced=True,
    )  # fmt: skip
    loss: str = setting(
        'poisson', 'Loss',
        'Only for the autoencoder in pinn mode: likelihood of the counts, or mean square error of '
        'the amplitudes.',
        choices=('poisson', 'amplitude'), advanced=True, architecture=AUTOENCODER, mode='pinn',
    )  # fmt: skip
    validation_fraction: float = setting(
        0.1, 'Validation fraction', 'Share of patterns held out when there is no validation scan.',
        low=0.0, high=0.5,
    )  # fmt: skip
    gradient_clip: float = setting(
        1.0, 'Gradient clip', 'Largest norm of the gradient; 0 turns clipping off.',
        low=0.0, high=1e6, advanced=True,
    )  # fmt: skip
    patience: int = setting(
        15, 'Patience', 'Epochs without a better validation loss before it stops; 0 never.',
        unit='epochs', low=0, high=100_000, advanced=True,
    )  # fmt: skip
    seed: int = setting(
        0, 'Seed', 'Seed of initial weights, split and batch order.', low=0, high=2**31 - 1
    )
    from_scratch: bool = setting(
        False, 'From scratch',
        'Begin with random weights; else the architecture unrolled begins with those that come '
        'with the plug-in.',
        advanced=True,
    )  # fmt: skip
    logger: str = setting(
        'csv', 'Logger', 'Where losses are logged to.', choices=('csv', 'tensorboard'),
        advanced=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ReconstructionConfig:
    """How an object is made from a scan."""

    start: str = setting(
        'auto', 'Start',
        'Begin from the network, from the phase gradients that the patterns show, or from a flat '
        'object; auto: the network if a model is given, else the gradients where they fit better.',
        choices=('auto', 'network', 'gradients', 'flat'),
    )  # fmt: skip
    sweeps: int = setting(
        20, 'Sweeps', 'Physics sweeps over all patterns after the start.', low=0, high=MOST_SWEEPS
    )
    held_out_stop: bool = setting(
        False, 'Stop by held-out patterns',
        'Hold one pattern in twenty out; once the others no longer help to predict them, settle '
        'with all patterns and end, after `sweeps` at the latest.',
    )  # fmt: skip
    slow_phase: bool = setting(
        True, 'Slow phase',
        'Between sweeps, correct the slowly varying phase by how far patterns are displaced.',
        advanced=True,
    )  # fmt: skip
    network_correction: bool = setting(
        True, 'Network correction',
        'A network adds what it expects of an object on the way, where scans are sparse, and takes '
        'off noise after the last sweep. The one that comes with the plug-in, unless a model of '
        'the architecture unrolled is given. Fewer than ten sweeps over bright patterns go '
        'without.',
    )  # fmt: skip
    sweep_batch_size: int = setting(
        0, 'Sweep batch size', 'Patterns per physics step; 0 chooses by overlap.',
        low=0, high=65_536, advanced=True,
    )  # fmt: skip
    update_probe: bool = setting(
        False, 'Update probe', 'Let the sweeps improve the probe modes too.'
    )
    correct_positions: bool = setting(
        False, 'Correct positions',
        'Let the sweeps move each pattern to where it fits, up to 6 px from its position.',
    )  # fmt: skip
    correct_intensities: bool = setting(
        True, 'Correct intensities',
        'Where the beam fluctuates from pattern to pattern, find by how much and allow for it.',
        advanced=True,
    )  # fmt: skip
    correct_background: bool = setting(
        True, 'Correct background',
        'Where the darkest pixels show counts that are no diffraction, allow for as many '
        'everywhere.',
        advanced=True,
    )  # fmt: skip
    probe_modes: int = setting(
        0, 'Probe modes',
        'Incoherent modes of the probe while it is updated; 0 keeps those of the scan.',
        low=0, high=16,
    )  # fmt: skip
    seed: int = setting(
        0, 'Seed', 'Seed of the order of the patterns in a sweep.', low=0, high=2**31 - 1,
        advanced=True, flag='sweep-seed',
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class RuntimeConfig:
    """Where it runs."""

    backend: str = setting(
        'auto', 'Back end', 'auto takes PyTorch when installed, else TensorFlow.',
        choices=('auto', 'torch', 'tensorflow'),
    )  # fmt: skip
    device: str = setting(
        'auto', 'Device', 'auto takes a GPU when there is one.', choices=('auto', 'cpu', 'cuda')
    )
    threads: int = setting(
        0, 'Threads', 'CPU threads; 0 leaves the choice to the framework.', low=0, high=1024,
        advanced=True,
    )  # fmt: skip
    checks: bool = setting(
        True, 'Checks', 'When a run begins, look for what is wrong with the data, and tell.',
        advanced=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


def without_effect(model: ModelConfig, training: TrainingConfig) -> str:
    """Return the settings, given other than by default, that are not for the model's architecture
    or mode: 'name=value, ...', empty when there are none.
    """
    return ', '.join(
        f'{f.name}={getattr(config, f.name)}'
        for config in (model, training)
        for f, s in declared(type(config))
        if (s.architecture not in ('', model.architecture) or s.mode not in ('', model.mode))
        and getattr(config, f.name) != f.default
    )


T = TypeVar('T', ModelConfig, TrainingConfig, ReconstructionConfig, RuntimeConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Return the settings as plain JSON-ready values."""
    return asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a configuration from plain values; unknown names are refused, missing ones take
    defaults.
    """
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            explain(
                f'Unknown settings for {cls.__name__}',
                expected=', '.join(sorted(known)),
                received=', '.join(unknown),
            )
        )
    return cls(**values)
