"""ONNX graphs of Qwen3-VL, written from safetensors without torch: vision encoder, decoder, what both stand on."""
