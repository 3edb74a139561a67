"""Latency that was measured on a phone: through Qualcomm AI Hub, or over adb."""
