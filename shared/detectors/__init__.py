"""Detectors made elsewhere, as model packages: importing ONNX files, and the person detector that Haechi brings."""
