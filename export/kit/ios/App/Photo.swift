import CoreGraphics
import Foundation
import ImageIO
import SRKit

private let sRGB = CGColorSpace(name: CGColorSpace.sRGB)!
private let layout = CGImageAlphaInfo.noneSkipLast.rawValue | CGBitmapInfo.byteOrder32Big.rawValue

/// A photograph's pixels: upright, in sRGB, shrunk to `most`; what is transparent becomes white.
func pixels(of data: Data, most: Int) -> Pixels? {
    guard let source = CGImageSourceCreateWithData(data as CFData, nil),
        let facts = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any],
        let height = facts[kCGImagePropertyPixelHeight] as? Int,
        let width = facts[kCGImagePropertyPixelWidth] as? Int
    else { return nil }
    let ratio = min(1, (Double(most) / Double(height * width)).squareRoot())
    let options: [CFString: Any] = [
        kCGImageSourceCreateThumbnailFromImageAlways: true,
        kCGImageSourceCreateThumbnailWithTransform: true,
        kCGImageSourceThumbnailMaxPixelSize: max(2, Int(Double(max(height, width)) * ratio)),
    ]
    guard let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
    else { return nil }
    let area = CGRect(x: 0, y: 0, width: image.width, height: image.height)
    var bytes = [UInt8](repeating: 255, count: image.width * image.height * 4)
    let isDrawn = bytes.withUnsafeMutableBytes { memory in
        guard let context = CGContext(
            data: memory.baseAddress, width: image.width, height: image.height,
            bitsPerComponent: 8, bytesPerRow: image.width * 4, space: sRGB, bitmapInfo: layout)
        else { return false }
        context.draw(image, in: area)
        return true
    }
    return isDrawn ? Pixels(height: image.height, width: image.width, bytes: bytes) : nil
}

/// An image of pixels.
func image(_ pixels: Pixels) -> CGImage? {
    guard let provider = CGDataProvider(data: Data(pixels.bytes) as CFData) else { return nil }
    return CGImage(
        width: pixels.width, height: pixels.height, bitsPerComponent: 8, bitsPerPixel: 32,
        bytesPerRow: pixels.width * 4, space: sRGB, bitmapInfo: CGBitmapInfo(rawValue: layout),
        provider: provider, decode: nil, shouldInterpolate: true, intent: .defaultIntent)
}
