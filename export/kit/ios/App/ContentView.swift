import CoreML
import PhotosUI
import SRKit
import SwiftUI

/// One screen: choose, upscale, dial the strength. It names the units that Core ML may take.
struct ContentView: View {
    @State private var chosen: PhotosPickerItem?
    @State private var photo: Pixels?
    @State private var result: Pixels?
    @State private var shown: CGImage?
    @State private var strength = 1.0
    @State private var status = ""
    @State private var done = 0.0
    @State private var task: Task<Void, Never>?
    private let mostPixels = 1 << 20

    var body: some View {
        VStack(spacing: 12) {
            PhotosPicker("Choose a photograph", selection: $chosen, matching: .images)
            if let shown {
                Image(decorative: shown, scale: 1).resizable().scaledToFit()
            }
            if task == nil {
                Button("Upscale", action: start).disabled(photo == nil)
            } else {
                ProgressView(value: done)
                Button("Cancel") { task?.cancel() }
            }
            if result != nil {
                Slider(value: $strength, in: 0...1) { Text("Strength") } onEditingChanged: { moves in
                    if !moves { blend() }
                }
            }
            Text(status).font(.footnote)
        }
        .padding()
        .onChange(of: chosen) { item in Task { await open(item) } }
    }

    @MainActor
    private func open(_ item: PhotosPickerItem?) async {
        guard let data = try? await item?.loadTransferable(type: Data.self) else { return }
        photo = pixels(of: data, most: mostPixels)
        result = nil
        shown = photo.flatMap(image)
        status = photo == nil ? "This file is no picture that this phone can read." : ""
    }

    private func start() {
        guard let photo else { return }
        task = Task {
            await upscale(photo)
            task = nil
        }
    }

    @MainActor
    private func upscale(_ photo: Pixels) async {
        let begin = Date()
        do {
            // The .mlpackage files of the export, added to the app's resources as a folder.
            let folder = Bundle.main.resourceURL!
            let upscaler = try await Upscaler(folder: folder)
            let made = try await Task.detached {
                try upscaler.upscale(photo) { tiles, all in
                    Task { @MainActor in done = Double(tiles) / Double(all) }
                    return !Task.isCancelled
                }
            }.valueWithCancellation
            result = made
            blend()
            let seconds = Int(Date().timeIntervalSince(begin))
            status = "\(made.width) × \(made.height) in \(seconds) s, CPU and Neural Engine"
        } catch is CancellationError {
            status = "Cancelled."
        } catch {
            status = "No picture: \(error.localizedDescription)"
        }
    }

    private func blend() {
        guard let photo, let result else { return }
        shown = (try? Upscaler.blend(photo, result, strength: strength)).flatMap(image)
    }
}

extension Task where Failure == Error {
    /// The value; cancelling the caller cancels this task.
    var valueWithCancellation: Success {
        get async throws {
            try await withTaskCancellationHandler { try await value } onCancel: { cancel() }
        }
    }
}
