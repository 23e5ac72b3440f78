"""From a publisher's files to batches on the device: catalog → prepare → loaders."""
