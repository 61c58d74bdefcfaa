"""An experiment: the TOML file, checked, and the parts that it stands for."""
