"""Other packages kept quiet and off the network."""

import os
import warnings


def quiet_libraries() -> None:
    """No bars or telemetry of other packages, and no network unless the user names something on a hub."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|torch")
    warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # peft finds out by itself
    warnings.filterwarnings("ignore", message="Detected pickle protocol")  # of weights that are refused
