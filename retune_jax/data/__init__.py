"""From tasks to batches: data sets on disk (builder), whole-context targets (encode), packing, the Grain pipeline."""
