"""Other programs' molecular dynamics, moved by a model's strides."""
