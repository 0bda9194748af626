"""Settings: typed configuration, presets, and the flags that read them."""
