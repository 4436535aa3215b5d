"""Export a trained model for programs that have jax, numpy and flatbuffers, but not this project.

| file                | content                                                                   |
|---------------------|---------------------------------------------------------------------------|
| `model.safetensors` | the parameters, named by their path: params.wte.embedding                 |
| `decode.jax`        | the sampling loop, serialized by jax.export for CPU, CUDA and TPU         |
| `config.json`       | the sizes of the sampling loop, the config, the versions                  |
| `vocab.json`        | the characters in token order                                             |
| `README.md`         | a model card: data, parameters, losses, the command that trains the model |
"""
