"""The catalog: models, prices and engines that an operator offers."""
