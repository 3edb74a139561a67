"""What a model costs: counts on the meta device, tables of them, and predicted latencies."""
