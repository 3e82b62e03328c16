"""The only folder that imports llama_cpp. Knows core's plain types; knows no text, engine or HTTP."""
