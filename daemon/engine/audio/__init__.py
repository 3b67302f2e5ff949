"""From a waveform to audio states: log-mel spectrogram and audio encoder."""
