"""ONNX models in onnxruntime-genai."""
