"""From a waveform to what a decoder attends to: the mel spectrogram and the encoder."""
