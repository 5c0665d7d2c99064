"""The name `azureml` inside a run whose environment has no azureml-core: `azureml.core.Run`."""
